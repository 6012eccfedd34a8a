"""What a person runs: command line, scenarios, reports."""
