"""The haystack: one kernel that a host lacks, among some 300 arms at six sites."""
