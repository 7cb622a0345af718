"""`python -m agent_srl`."""

from agent_srl.cli import main

main()
