"""Who can reach the served page: tests from outside, over the network."""

import http.client
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

CHECKOUT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def served(serve, free_port, tmp_path_factory):
    with serve(tmp_path_factory.mktemp("doors") / "home", free_port()) as (port, process):
        yield port, process


def ask(port, method, path, **headers):
    connection = http.client.HTTPConnection("localhost", port, timeout=10)
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    return connection.getresponse()


def listening(process):
    return {place.laddr.ip for place in psutil.Process(process.pid).net_connections() if place.status == "LISTEN"}


def stream(port, origin, host="localhost"):
    """Open the page's WebSocket as a browser does that knows this machine as `host`."""
    place = socket.create_connection(("localhost", port))
    return connect(
        f"ws://{host}:{port}/_stcore/stream", sock=place, origin=origin, subprotocols=["streamlit"], max_size=None
    )


def connected(port, origin, host="localhost"):
    try:
        with stream(port, origin, host):
            return True
    except InvalidStatus as refused:
        assert refused.response.status_code == 403
        return False


def test_it_listens_to_this_machine_alone(served):
    _, process = served
    assert listening(process) and listening(process) <= {"127.0.0.1", "::1"}


def test_a_container_may_listen_to_all_under_any_name(serve, free_port, tmp_path):
    """Serve with the settings from the Dockerfile."""
    lines = (CHECKOUT / "Dockerfile").read_text().splitlines()
    settings = dict(
        line.strip().removesuffix(" \\").split("=", 1) for line in lines if line.strip().startswith("STREAMLIT_")
    )
    with serve(tmp_path / "home", free_port(), **settings) as (port, process):
        assert listening(process) == {"0.0.0.0"}
        assert connected(port, f"http://studio.example:{port}", "studio.example")
        assert not connected(port, "http://evil.example", "studio.example")


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_its_own_page_is_let_in(served, name):
    port, _ = served
    assert connected(port, f"http://{name}:{port}", name)


def test_another_sites_page_is_turned_away(served):
    port, _ = served
    assert not connected(port, "http://evil.example")


def test_a_site_whose_name_was_made_to_point_here_is_turned_away(served):
    port, _ = served
    assert not connected(port, f"http://evil.example:{port}", "evil.example")


@contextmanager
def session(port):
    """Start a session like a browser; yield its ID and the page's cookie."""
    cookie = ask(port, "GET", "/_stcore/health").headers["Set-Cookie"].partition(";")[0]
    with stream(port, f"http://localhost:{port}") as connection:
        message = BackMsg()
        message.rerun_script.query_string = ""
        connection.send(message.SerializeToString())
        said = ForwardMsg()
        while said.WhichOneof("type") != "new_session":
            said = ForwardMsg.FromString(connection.recv(timeout=60))
        yield said.new_session.initialize.session_id, cookie


def test_an_upload_needs_the_pages_own_token_and_may_not_be_larger_than_the_limit(served):
    port, _ = served
    with session(port) as (name, cookie):
        path = f"/_stcore/upload_file/{name}/picture"
        ours = {"Cookie": cookie, "X_Xsrftoken": cookie.partition("=")[2]}
        assert ask(port, "PUT", path, Content_Length="10").status == 403
        assert ask(port, "PUT", path, Content_Length="10", Cookie=cookie).status == 403  # like another site's form
        assert ask(port, "PUT", path, Content_Length=str(2048 * 2**20 + 1), **ours).status == 413
        assert ask(port, "PUT", path, Content_Length="0", **ours).status == 400  # accepted, but no file


SHOWN = """
from streamlit import config
config._main_script_path = "dashboard/app.py"
config.get_config_options(force_reparse=True)
print(config.get_option("client.showErrorDetails"))
"""


def test_a_traceback_is_not_for_who_looks_at_the_page():
    done = subprocess.run([sys.executable, "-c", SHOWN], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "none"
