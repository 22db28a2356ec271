"""``python -m llmflow`` is the command ``llmflow``."""

from llmflow.cli.main import main

if __name__ == "__main__":
    main()
