"""Starting R, and refusing to."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from pylmernn.bridge import BridgeError, session

pytestmark = pytest.mark.r


def python(code):
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    return out.stdout


def test_import_of_the_package_starts_no_r():
    text = python("import sys, pylmernn.bridge; print([m for m in sys.modules if m.startswith('rpy2')])")
    assert text.strip() == "[]"


def test_refuses_inside_r():
    text = python(
        "import os\n"
        "os.environ['R_SESSION_INITIALIZED'] = f'PID={os.getpid()}:NAME=\"reticulate\"'\n"
        "from pylmernn.bridge import BridgeError, session\n"
        "try: session()\n"
        "except BridgeError as error: print(error)\n"
        "import sys; print('rpy2.rinterface' in sys.modules)"
    )
    assert "this Python runs inside R" in text
    assert text.rstrip().endswith("False")


def test_another_process_inside_r_is_no_obstacle():
    text = python(
        "import os; os.environ['R_SESSION_INITIALIZED'] = f'PID={os.getppid()}:NAME=\"reticulate\"'\n"
        "from pylmernn.bridge import session\n"
        "print(session().ri.evalr('6 * 7')[0])"
    )
    assert text.strip() == "42.0"


def test_import_failure_names_both_pins():
    text = python(
        "import sys; sys.modules['rpy2.rinterface'] = None  # Python then raises ImportError\n"
        "from pylmernn.bridge import BridgeError, session\n"
        "try: session()\n"
        "except BridgeError as error: print(error)"
    )
    assert "rpy2>=3.6,<3.6.7" in text
    assert "rpy2-rinterface<3.6.6" in text


def test_other_threads_are_refused():
    session()
    caught = []

    def elsewhere():
        try:
            session()
        except BridgeError as error:
            caught.append(str(error))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert "thread that used it first" in caught[0]


def test_messages_warnings_and_errors_are_caught(capfd):
    r = session()
    answer = r.run("{message('one'); warning('two'); message('three'); 4}", r.place())
    assert answer.value[0] == 4
    assert answer.messages == ("one", "three")
    assert answer.warnings == ("two",)
    with pytest.raises(BridgeError, match=r"^R stopped: no such thing$"):
        r.run("stop('no such thing')", r.place())
    out, err = capfd.readouterr()
    assert out == ""
    assert err == ""


def test_missing_r_package_is_named():
    with pytest.raises(BridgeError, match=r"R package noSuchPackage is not there: install it"):
        session().attach("noSuchPackage")
