"""What AIWM and the embedded IAM share as HTTP programs: errors, bodies, lists, who is calling, the log line."""
