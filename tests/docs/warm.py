"""Runs `python ARGUMENTS`, each in a fork of one process that has imported everything already.

One request per line on stdin, {"arguments": [...], "log": file}; one exit code per line on stdout.
"""

import json
import os
import runpy
import sys
import traceback


def run(arguments):
    """What `python ARGUMENTS` does; the exit code."""
    try:
        if arguments[0] == '-c':
            sys.argv = arguments
            exec(arguments[1], {'__name__': '__main__'})
        else:
            sys.argv = arguments
            sys.path[0] = os.path.dirname(os.path.abspath(arguments[0]))
            runpy.run_path(arguments[0], run_name='__main__')
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
            return 1
        return stop.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main():
    import mmdet.apis
    import mmdet.models  # noqa: F401

    import mmdet_detrdistill  # noqa: F401

    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            with open(request['log'], 'w') as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            code = run(request['arguments'])
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        _, status = os.waitpid(child, 0)
        print(os.WEXITSTATUS(status) if os.WIFEXITED(status) else -1, flush=True)


if __name__ == '__main__':
    main()
