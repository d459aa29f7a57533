"""A gallery's server answers this machine alone, and only what belongs to its index."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack

import pytest
import torch
from places import ROOT
from shown import built_index, data_of, index_of

from curl_rl import cli
from curl_rl.representation.gallery.serving import hosts, open_server
from curl_rl.types import ConfigError


@pytest.fixture(scope="module")
def served():
    """Give an index and a server of it, of which the map shows a half."""
    index = index_of(80, sources=2)
    with open_server(index, most=40, neighbours=5, columns={"score": [n / 8 for n in range(80)]}) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield index, server
        server.shutdown()
        thread.join()


def ask(server, path, *, host=None, method="GET"):
    """Return the status, the headers and the content of an answer; the path goes as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=600)
    connection.putrequest(method, path, skip_host=True)
    for value in [f"127.0.0.1:{server.server_port}"] if host is None else host:
        connection.putheader("Host", value)
    connection.endheaders()
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, answer.headers, content


def test_the_page_has_the_map_and_asks_for_the_rest(served):
    index, server = served
    status, headers, content = ask(server, "/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    told = data_of(content.decode())
    assert told["served"]
    assert told["arrays"]["number"].tolist() == list(range(0, 80, 2))
    assert "near" not in told["arrays"]
    assert b'id="sheet-' not in content
    assert told["arrays"]["picture"].tolist() == [
        1024 * (n // 40) + n % 40 // 32 * 32 + n % 40 % 32 for n in range(0, 80, 2)
    ]
    for number, sheet in enumerate(index.sheets):
        assert ask(server, f"/sheet/{number}")[::2] == (200, sheet)


@pytest.mark.parametrize("number", [0, 33, 79])
def test_any_frame_is_looked_at_among_all(served, number):
    index, server = served
    status, headers, content = ask(server, f"/frame/{number}")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    look = json.loads(content)
    assert look["frame"]["name"] == f"frame {number}"
    assert look["frame"]["values"][:2] == [number / 8, index.rows.classes[number] or None]
    for kind, apart in (("near", False), ("far", True)):
        ids, values = index.neighbours(number, 5, other_episodes=apart)
        assert [each["number"] for each in look[kind]] == ids.tolist()
        assert [each["value"] for each in look[kind]] == pytest.approx(values.tolist())
    first = max(number // 10 * 10, number - 8)
    last = min(number // 10 * 10 + 9, number + 8)
    assert [each["number"] for each in look["strip"]] == list(range(first, last + 1))


OUTSIDE = (
    "/../pyproject.toml",
    "/sheet/../../pyproject.toml",
    "/%2e%2e/pyproject.toml",
    "/sheet/%2e%2e%2f%2e%2e%2fetc/passwd",
    "/..%5c..%5cetc",
    "//etc/passwd",
    "/etc/passwd",
    "file:///etc/passwd",
    "http://127.0.0.1/etc/passwd",
    "/sheet/2",
    "/sheet/-1",
    "/sheet/00",
    "/sheet/0.jpg",
    "/sheet/0/",
    "/sheet/0%00",
    "/sheet/" + "9" * 5000,
    "/frame/80",
    "/frame/1e1",
    "/frame/1?x=/etc/passwd",
    "/index.json",
    "/encoder/model.safetensors",
    "/part-000/frames.csv",
    "*",
)


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: ascii(path[:40]))
def test_nothing_else_is_answered(served, path):
    status, _, content = ask(served[1], path)
    assert (status, content) == (404, b"there is nothing here\n")


def test_the_usual_port_is_left_out_by_browsers():
    assert hosts(80) == {"127.0.0.1", "127.0.0.1:80", "localhost", "localhost:80"}
    assert hosts(8000) == {"127.0.0.1:8000", "localhost:8000"}


def test_a_hosts_name_may_be_in_capitals(served):
    assert ask(served[1], "/", host=[f"LOCALHOST:{served[1].server_port}"])[0] == 200


@pytest.mark.parametrize(
    "host",
    [["evil.example"], ["127.0.0.1"], ["localhost:1"], ["127.0.0.1.evil.example:{}"], [], ["0.0.0.0:{}"], ["[::1]:{}"]],
    ids=str,
)
def test_whoever_asks_by_another_name_is_refused(served, host):
    server = served[1]
    for path in ("/", "/frame/1", "/sheet/0"):
        status, _, content = ask(server, path, host=[each.format(server.server_port) for each in host])
        assert status == 403
        assert content == f"ask for {server.url}\n".encode()


def test_localhost_is_this_machine_too(served):
    assert ask(served[1], "/frame/1", host=[f"localhost:{served[1].server_port}"])[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT"])
def test_only_reading_is_understood(served, method):
    assert ask(served[1], "/", method=method)[0] == 501


def test_head_is_get_without_the_content(served):
    for path in ("/", "/sheet/0", "/nowhere"):
        wanted, headers, content = ask(served[1], path)
        status, told, nothing = ask(served[1], path, method="HEAD")
        assert (status, told["Content-Length"], nothing) == (wanted, str(len(content)), b"")
        assert told["X-Content-Type-Options"] == headers["X-Content-Type-Options"] == "nosniff"


def test_many_ask_at_once(served):
    index, server = served
    answers = {}
    threads = [threading.Thread(target=lambda n=n: answers.update({n: ask(server, f"/frame/{n}")})) for n in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    near = index.neighbours(torch.arange(24), 5).ids.tolist()
    assert {n: [each["number"] for each in json.loads(answers[n][2])["near"]] for n in range(24)} == dict(
        enumerate(near)
    )


def test_a_server_listens_to_this_machine_alone(served):
    assert served[1].server_address[0] == "127.0.0.1"


def test_a_port_in_use_is_one_message(tmp_path, capsys):
    place = built_index(tmp_path / "idx")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} is in use: give another --port"):
            open_server(index_of(20), port=port)
        assert cli.main(["serve", str(place), "--port", str(port)]) == 2
    assert (
        capsys.readouterr().err == f"curl-rl: port {port} is in use: give another --port, or 0 for any that is free\n"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["INT", "TERM"])
def test_the_command_says_where_it_serves_and_ends_with_a_signal(number, tmp_path):
    command = [sys.executable, "-m", "curl_rl", "serve", str(built_index(tmp_path / "idx")), "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **streams) as process, ExitStack() as killed:
        killed.callback(process.kill)
        assert process.stdout is not None
        url = process.stdout.readline().split()[0]
        port = int(url.removesuffix("/").rpartition(":")[2])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        connection.request("GET", "/")  # and stays open
        assert data_of(connection.getresponse().read().decode())["title"] == "idx"
        process.send_signal(number)
        _, errors = process.communicate(timeout=600)
        connection.close()
    assert (process.returncode, errors) == (0, "stopped\n")
