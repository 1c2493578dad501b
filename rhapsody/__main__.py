"""`python -m rhapsody`: the command, where the script is not on PATH."""

from rhapsody.cli.main import main

if __name__ == "__main__":
    main(prog_name="rhapsody")
