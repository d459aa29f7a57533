"""A headless Chromium that is driven as a person drives it, by its own protocol over two pipes."""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")
KEYS = {"Enter": (13, "\r"), "Escape": (27, ""), " ": (32, " "), "Tab": (9, "")}
KEYS |= {f"Arrow{way}": (37 + i, "") for i, way in enumerate(("Left", "Up", "Right", "Down"))}


class Browser:
    """One page of a browser; `problems` collects its complaints."""

    def __init__(self, profile: Path):
        assert CHROMIUM is not None
        (theirs_in, self._to), (self._from, theirs_out) = os.pipe(), os.pipe()
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]
        joined = f'exec "$@" 3</dev/fd/{theirs_in} 4>/dev/fd/{theirs_out}'
        self._process = subprocess.Popen(
            ["sh", "-c", joined, "sh", *command],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._numbers, self._session, self._left, self.problems = itertools.count(1), None, b"", list[str]()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.requests: list[str] = []

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def call(self, method: str, **parameters: Any) -> Any:
        """Do one thing of Chrome's protocol and return its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._left:
            ready, _, _ = select.select([self._from], [], [], 60)
            part = os.read(self._from, 1 << 20) if ready else b""
            assert part, "the browser says nothing"
            self._left += part
        text, _, self._left = self._left.partition(b"\0")
        answer = json.loads(text)
        self._note(answer.get("method"), answer.get("params", {}))
        return answer

    def _note(self, method: str | None, told: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(told["exceptionDetails"]))
        elif method == "Log.entryAdded":
            self.problems.append(told["entry"]["text"])
        elif method == "Runtime.consoleAPICalled":
            self.problems.append(json.dumps(told["args"]))
        elif method == "Network.requestWillBeSent" and not told["request"]["url"].startswith("data:"):
            self.requests.append(told["request"]["url"])

    def show(self, address: str, *, width: int = 1280, height: int = 800, scheme: str = "light") -> None:
        """Open a page of some size, in light or dark, and wait until it has run."""
        self.problems.clear()
        self.requests.clear()
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=media)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Page.navigate", url=address)
        self.wait('document.readyState === "complete" && location.href !== "about:blank"')
        self.settle()

    def look(self, code: str) -> Any:
        """Return what an expression is, or what a promise gives."""
        done = self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def wait(self, code: str) -> None:
        """Wait until an expression holds."""
        until = time.monotonic() + 60
        while not self.look(code):
            assert time.monotonic() < until, f"never: {code}"
            time.sleep(0.02)

    def settle(self) -> None:
        """Wait until the page has drawn what was asked of it."""
        self.look("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def mouse(self, kind: str, x: float, y: float, **options: Any) -> None:
        """Do one thing with the mouse: Moved, Pressed, Released, Wheel."""
        held = {"button": "left", "clickCount": 1} if kind in ("Pressed", "Released") else {}
        self.call("Input.dispatchMouseEvent", type=f"mouse{kind}", x=x, y=y, **(held | options))

    def click(self, x: float, y: float) -> None:
        self.mouse("Moved", x, y)
        self.mouse("Pressed", x, y)
        self.mouse("Released", x, y)

    def drag(self, places: list[tuple[float, float]], **options: Any) -> None:
        """Press at the first place, move along the others, and let go at the last."""
        self.mouse("Pressed", *places[0], **options)
        for x, y in places[1:]:
            self.mouse("Moved", x, y, button="left", buttons=1, **options)
        self.mouse("Released", *places[-1], **options)

    def touch(self, *steps: Sequence[Sequence[float]]) -> None:
        """Lay fingers on places, move them to further ones, and lift them."""
        kinds = ["touchStart", *["touchMove"] * (len(steps) - 1)]
        for kind, places in zip(kinds, steps, strict=True):
            points = [{"x": float(x), "y": float(y), "id": finger} for finger, (x, y) in enumerate(places)]
            self.call("Input.dispatchTouchEvent", type=kind, touchPoints=points)
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def key(self, name: str) -> None:
        """Press and release one key."""
        code, text = KEYS.get(name, (ord(name.upper()) if len(name) == 1 else 0, name if len(name) == 1 else ""))
        told = {"key": name, "windowsVirtualKeyCode": code, "code": name if len(name) > 1 else ""}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **told)
        self.call("Input.dispatchKeyEvent", type="keyUp", **told)

    def picture(self, file: Path) -> None:
        """Write what is seen as a PNG file."""
        self.settle()
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
