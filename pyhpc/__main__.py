"""python -m pyhpc: the same as the command pyhpc."""

from pyhpc.cli import main

if __name__ == "__main__":
    main()
