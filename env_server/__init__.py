"""Environment service: tasks, sessions with leases, tools, and verdicts by running tests in a sandbox."""
