"""The command line: finds the verb, and tells what went wrong in one line."""

import argparse
import re
import sys
from collections.abc import Sequence

from curl_rl import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 2 for a setting that cannot be honoured, 130 when interrupted."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.run is None:
        parser.print_help()
        return 0
    from curl_rl.run.streams import unfailing_stderr

    with unfailing_stderr():
        return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    from curl_rl.run.streams import named_stdout

    try:
        with named_stdout():
            return arguments.run(arguments)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        sys.stderr.close()
        return 1
    except Exception as error:
        if (status := explain(error, "curl-rl")) is None:
            raise
        return status


def explain(error: Exception, program: str) -> int | None:
    """Print an error as one line and return its exit status; return None for one that needs its traceback."""
    from curl_rl.types import ConfigError

    if isinstance(error, ConfigError) or (str(error) and _says_all(error)):
        print(f"{program}: {_told(error)}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    return None


def _told(error: Exception) -> str:
    """Return an error's message; of one of the operating system's own, what is wrong with which file."""
    if isinstance(error, OSError) and error.filename is not None and str(error).startswith("[Errno"):
        return f"cannot use {error.filename}: {error.strerror}; give another path"
    from curl_rl.run.machine import lacks_memory

    if lacks_memory(error):
        size = re.search(r"allocate (\d\S* \w+)", str(error))
        return f"out of memory{f' (asked for {size[1]})' if size else ''}: lower batch_size, or the sizes of networks"
    return str(error)


def _says_all(error: Exception) -> bool:
    from curl_rl.run.machine import lacks_memory

    if isinstance(error, OSError | FloatingPointError) or lacks_memory(error):
        return True
    from curl_rl.envs import EnvError

    return isinstance(error, EnvError)


def _parser() -> argparse.ArgumentParser:
    from curl_rl.commands import (
        benchmark,
        distil,
        doctor,
        evaluate,
        export,
        finetune,
        flag,
        gallery,
        index,
        learn,
        pretrain,
        probe,
        record,
        report,
        search,
        select,
        serve,
        train,
    )
    from curl_rl.commands.arguments import Mixed

    parser = argparse.ArgumentParser(
        prog="curl-rl", description="Train agents from pixels with encoders that learn by contrast."
    )
    parser.add_argument("--version", action="version", version=f"curl-rl {__version__}")
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=Mixed)

    without_agent = (pretrain, finetune, distil, probe, index, search, gallery, serve, select, flag, learn)
    for verb in (train, record, *without_agent, evaluate, benchmark, report, export, doctor):
        verb.add(commands)
    return parser
