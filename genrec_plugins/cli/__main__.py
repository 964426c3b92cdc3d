"""``python -m genrec_plugins.cli``: the command line as a module, which torchrun can start."""

from genrec_plugins.cli.main import run

if __name__ == "__main__":
    run()
