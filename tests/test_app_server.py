"""The server of `guideflow app`: for this machine alone, and for no file but those that were dropped."""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from guideflow import registry
from guideflow.app import choices
from guideflow.app.server import same_place, serving
from guideflow.errors import InvalidArgument
from guideflow.testing import fake_distribution

httpx = pytest.importorskip("httpx")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:gradio"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

DARK = '''
import guideflow as gf
from guideflow import images

class Dark(gf.Loss):
    """Brightness.

    Arguments:
        reference: A picture.
    """

    def __init__(self, reference: "ImageSources"):
        self.target = images.read_image(reference).mean()

    def __call__(self, image):
        return (image.flatten(1).mean(1) - self.target).abs()

@gf.hookimpl
def guideflow_losses():
    return {"dark": Dark}
'''


@pytest.fixture(scope="module")
def server(tmp_path_factory: Any) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("plugins")
    fake_distribution(folder, "dark = plugin_dark_app", DARK)
    sys.path.insert(0, str(folder))
    registry.refresh()
    choices.choices.cache_clear()
    with serving(warm=False) as found:
        yield found
    sys.path.remove(str(folder))
    registry.refresh()
    choices.choices.cache_clear()
    assert not found.studio.room.exists()  # nothing is left on the disk
    assert os.environ.get("GRADIO_TEMP_DIR") is None


@pytest.fixture
def client(server: Any) -> Iterator[Any]:
    with httpx.Client(base_url=server.url, timeout=60) as made:
        yield made


class Page:
    """What a script that knows the protocol can send."""

    def __init__(self, client: Any) -> None:
        self.client, self.config = client, client.get("/config").json()
        self.components = {one["id"]: one for one in self.config["components"]}

    def event(self, name: str) -> Any:
        return next(one for one in self.config["dependencies"] if one["api_name"] == name)

    def values(self, **given: Any) -> list[Any]:
        """Values of all inputs, those of the first component of a type or an element changed."""
        found = []
        for number in self.event("prepare")["inputs"]:
            one = self.components[number]
            names = one["props"].get("elem_id"), one["props"].get("label"), one["type"]
            key = next((name for name in names if name in given), None)
            found.append(one["props"].get("value") if key is None else given[key])
        return found

    def prepare(self, **given: Any) -> Any:
        data = {"data": self.values(**given), "fn_index": self.event("prepare")["id"], "session_hash": "tab"}
        return self.client.post("/gradio_api/run/predict", json=data)


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "127.0.0.1.evil.example"},
        {"host": ""},
        {"host": "[::1"},
        {"host": "evil@127.0.0.1"},
        {"host": "127.0.0.1/evil"},
        {"host": "127.0.0.1:port"},
        {"host": "0.0.0.0"},
        {"origin": ""},
        {"origin": "http://[::1"},
        {"origin": "file://"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_another_site_in_the_same_browser_is_refused(client: Any, headers: Any) -> None:
    for path in ("/", "/config", "/gradio_api/info"):
        assert client.get(path, headers=headers).status_code == 403
    sent = client.post("/gradio_api/upload", files={"files": ("a.png", b"x")}, headers=headers)
    assert sent.status_code == 403


def test_this_machine_by_its_own_name_is_answered() -> None:
    assert same_place({"host": "127.0.0.1:7860", "origin": "http://127.0.0.1:7860", "sec-fetch-site": "same-origin"})
    assert same_place({"host": "localhost:7860"})
    followed = {"host": "localhost:7860", "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert same_place(followed) and not same_place(followed, "POST")
    assert not same_place({**followed, "host": "evil.example"})
    assert not same_place({"host": "localhost:7860", "origin": "http://127.0.0.1:7860"})


def test_the_page_asks_nothing_of_others_and_is_framed_by_nobody(client: Any, server: Any) -> None:
    answer = client.get("/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy
    assert server.url.startswith("http://127.0.0.1:") and answer.status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=/tmp/../etc/passwd",
        "/gradio_api/file=..%2f..%2f..%2fetc%2fpasswd",
        "/gradio_api/file={here}/pyproject.toml",
        "/gradio_api/file=pyproject.toml",
        "/gradio_api/file={room}/../secret.png",
        "/gradio_api/proxy=http://127.0.0.1/",
        "/assets/..%2f..%2f..%2fetc/passwd",
        "/static/..%2f..%2fetc/passwd",
        "/file=/etc/passwd",
        "/docs",
        "/openapi.json",
        "/monitoring",
        "/gradio_api/runs",
        "/gradio_api/mcp/",
    ],
)
def test_no_other_file_is_served(client: Any, server: Any, path: str) -> None:
    answer = client.get(path.format(here=Path(__file__).parent.parent, room=server.studio.room))
    assert answer.status_code in (400, 403, 404) and "root:" not in answer.text


def test_nothing_is_offered_to_programs(client: Any) -> None:
    assert client.get("/gradio_api/info").json() == {"named_endpoints": {}, "unnamed_endpoints": {}}


def test_no_path_that_a_visitor_sends_is_read(client: Any, server: Any, tmp_path: Path) -> None:
    from guideflow_avatars import portrait

    page, secret = Page(client), str(portrait("ada"))
    for more in ({}, {"meta": {"_type": "gradio.FileData"}}, {"url": f"{server.url}gradio_api/file={secret}"}):
        file = {"path": secret, **more}
        for given in (
            {"gf-dark-reference": [{"image": file, "caption": None}], "gf-losses": ["dark"]},
            {"gf-dark-reference": [{"image": {**file, "path": f"{server.url}config"}}], "gf-losses": ["dark"]},
            {"gf-dark-reference": [{"video": file, "caption": None}], "gf-losses": ["dark"]},
            {"A layout as a file": file, "gf-losses": ["avatars-segmentation"]},
            {
                "Layout": {"background": file, "layers": [file], "composite": file},
                "gf-losses": ["avatars-segmentation"],
            },
        ):
            answer = page.prepare(**given)
            refused = answer.status_code == 500 or "Only pictures that are dropped" in answer.text
            refused = refused or "needs a reference" in answer.text
            assert refused, answer.text[:300]
            assert server.studio.job("tab") is None


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../../secret", "evil.py:Loss", "{}", "avatars-identity:reference=/etc/passwd"]
)
def test_no_path_is_taken_through_the_forms(client: Any, server: Any, name: str) -> None:
    page = Page(client)
    for given in ({"gf-losses": [name]}, {"Sampler": name}, {"Solver": name}, {"device": name}, {"dtype": name}):
        answer = page.prepare(**given)
        assert answer.status_code == 500 or "gf-bad" in answer.text
        assert server.studio.job("tab") is None


def test_what_is_too_large_is_not_taken(client: Any) -> None:
    assert client.post("/gradio_api/upload", files={"files": ("a.png", bytes(40 * 2**20 + 1))}).status_code == 413


def test_headers_that_are_there_twice_are_refused(client: Any, server: Any) -> None:
    for name, good in (("origin", server.url.rstrip("/")), ("sec-fetch-site", "same-origin")):
        assert client.get("/config", headers=[(name, good)]).status_code == 200
        assert client.get("/config", headers=[(name, "http://evil.example"), (name, good)]).status_code == 403


def test_what_a_request_says_about_its_way_is_not_believed(client: Any) -> None:
    said = {"x-forwarded-host": "evil.example", "x-forwarded-proto": "https", "forwarded": "host=evil.example"}
    assert "evil.example" not in client.get("/", headers=said).text + client.get("/config", headers=said).text


def test_a_large_request_is_refused_however_it_is_sent(client: Any) -> None:
    for content in (bytes(41 * 2**20), (bytes(2**20) for _ in range(41))):  # the latter does not say how much comes
        try:
            assert client.post("/gradio_api/run/predict", content=content).status_code in (400, 413)
        except httpx.TransportError:  # it is cut off
            pass
    assert client.get("/config").status_code == 200


def test_an_uploads_name_leads_nowhere(client: Any, server: Any) -> None:
    (path,) = client.post("/gradio_api/upload", files={"files": ("../../../evil.png", b"x")}).json()
    assert Path(path).resolve().is_relative_to(server.studio.room.resolve())


def test_from_the_upload_to_the_files(client: Any, server: Any) -> None:
    from guideflow_avatars import portrait

    page = Page(client)
    (path,) = client.post("/gradio_api/upload", files={"files": ("me.png", portrait("ada").read_bytes())}).json()
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    given = {"gf-dark-reference": [{"image": file, "caption": None}], "gf-losses": ["dark"], "Sampler": "toy-mixture"}
    answer = page.prepare(**given, Iterations=2, Candidates=1)
    assert "Waiting for its turn" in answer.text, answer.text
    job = {"data": [], "fn_index": page.event("run")["id"], "session_hash": "tab"}
    client.post("/gradio_api/queue/join", json=job).raise_for_status()
    messages = []
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": "tab"}) as stream:
        for line in stream.iter_lines():
            if line.startswith("data:"):
                messages.append(json.loads(line[5:]))
                if messages[-1]["msg"] == "process_completed":
                    break
    assert messages[-1]["success"], messages[-1]
    found = server.studio.job("tab")
    assert found.state == "done" and len(found.frames) == 3
    shown = [text for message in messages for text in json.dumps(message).split('"') if "guided-00.png" in text]
    assert shown and all(str(server.studio.room) in one or "file=" in one or one == "guided-00.png" for one in shown)
    folder = found.folder
    server.studio.forget("tab")
    assert not folder.exists()


def test_a_port_that_is_no_port_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="port"), serving(port=80):
        pass
    assert not list(Path(tempfile.gettempdir()).glob("guideflow-app-nothing*"))
