"""The page of `guideflow app` as a visitor has it: in Chromium, against a server in a process of its own.

`pytest -m browser -n 0` runs this where Chromium is installed. With GUIDEFLOW_SCREENSHOTS=FOLDER it leaves pictures
of what it saw there, and with GUIDEFLOW_PICTURES=1 it draws the one of the documentation again.
"""

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from guideflow import images

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore")]

DESKTOP, PHONE = (1280, 900), (390, 844)
DRAW = bool(os.environ.get("GUIDEFLOW_PICTURES"))
PATIENCE = int(os.environ.get("GUIDEFLOW_PATIENCE", "180")) * 1000  # milliseconds
PHOTOGRAPH = Path(__file__).parent.parent / "plugins" / "guideflow_identity" / "eileen-collins.png"


@pytest.fixture(scope="module")
def url(tmp_path_factory: Any) -> Iterator[str]:
    """A server, which leaves nothing behind."""
    folder = tmp_path_factory.mktemp("server")
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "guideflow", "app", "--no-open"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, cwd=folder)
    assert process.stdout is not None
    found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
    assert found, "the server did not start"
    yield found[0]
    process.terminate()
    assert process.wait(timeout=60) in (0, 143)
    assert not list(folder.glob("guideflow-app-*"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.fail("Chromium is not installed: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture
def visit(browser: Any, url: str) -> Iterator[Callable[..., Any]]:
    """Open the page in a tab of its own; in the end nothing may have gone wrong in it, or been asked of others."""
    contexts, troubles = [], []

    def opened(size: tuple[int, int] = DESKTOP) -> Any:
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, accept_downloads=True)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on(
            "request", lambda one: None if one.url.startswith((url, "data:", "blob:")) else troubles.append(one.url)
        )
        page.goto(url)
        page.wait_for_selector("#gf-run")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not troubles


def portrait(name: str) -> Path:
    import guideflow_avatars

    return Path(guideflow_avatars.portrait(name))


def shoot(page: Any, name: str) -> None:
    if folder := os.environ.get("GUIDEFLOW_SCREENSHOTS"):
        page.wait_for_timeout(800)
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)


def draw_documentation(page: Any) -> None:
    if DRAW:
        page.wait_for_timeout(1500)
        with Image.open(io.BytesIO(page.screenshot(full_page=True))) as seen:
            few = seen.convert("RGB").quantize(128, dither=Image.Dither.NONE)
        few.save(Path(__file__).parent.parent / "docs" / "images" / "the-app.png", optimize=True)


def number(page: Any, label: str, value: int) -> None:
    plain = page.get_by_label(label, exact=True).and_(page.locator("input[type=number]"))
    box = page.get_by_label(f"number input for {label}", exact=True).or_(plain).first  # of a slider, or by itself
    box.fill(str(value))
    box.press("Enter")


def pick_losses(page: Any, *names: str) -> None:
    page.locator("#gf-losses").get_by_role("button", name="Remove").last.click()
    for name in names:
        page.locator("#gf-losses input").fill(name)
        page.get_by_role("option", name=name, exact=True).click()
        page.wait_for_selector(f"#gf-loss-{name}")
    page.keyboard.press("Escape")
    assert page.locator("#gf-losses .token").all_inner_texts() == [*names], "other losses are picked"


def fill(place: Any, label: str, value: str) -> None:
    """Type as a hand does, and see that it stands there."""
    box = place.get_by_label(label)
    box.fill(value)
    box.press("Tab")
    place.page.wait_for_timeout(300)
    assert box.input_value() == value, f"{label} shows {box.input_value()}"


def drop(page: Any, loss: str, *paths: Path, option: str = "reference") -> None:
    place = f"#gf-{loss}-{option}"
    page.set_input_files(f"{place} input[type=file]", [str(path) for path in paths])
    page.wait_for_selector(f"{place} img")


def paint(page: Any, place: Any, colour: str | None = None, width: int = 60) -> None:
    """Draw strokes with the mouse across the middle of an editor, in a colour of its palette."""
    canvas = place.locator("canvas").first
    canvas.scroll_into_view_if_needed()
    place.get_by_role("button", name="Brush", exact=True).click()
    if colour:
        place.get_by_role("button", name="Color", exact=True).click()
        place.locator(f'button.color[style*="{colour}"]').click()
        place.get_by_role("button", name="Brush", exact=True).click()
    box = canvas.bounding_box()
    left, middle = box["x"] + box["width"] / 2 - width, box["y"] + box["height"] / 2
    for down in (-20, 0, 20):
        page.mouse.move(left, middle + down)
        page.mouse.down()
        page.mouse.move(left + 2 * width, middle + down, steps=6)
        page.mouse.up()
    page.wait_for_timeout(500)  # the page sends a drawing when the hand has rested


def result(page: Any, mood: str = "good") -> str:
    """Wait for the end of a run; the mood it ends in is the one expected."""
    ended = page.locator("#gf-status .gf-status").filter(has_text=re.compile(r"Done|Stopped"))
    said = ended.or_(page.locator("#gf-status .gf-bad"))
    assert f"gf-{mood}" in said.get_attribute("class"), said.text_content()
    return str(said.text_content())


def downloads(page: Any, folder: Path) -> dict[str, Path]:
    found = {}
    page.wait_for_selector("#gf-files a")
    for link in page.locator("#gf-files a").all():
        with page.expect_download() as waiting:
            link.click()
        name = waiting.value.suggested_filename
        waiting.value.save_as(folder / name)
        found[name] = folder / name
    return found


def test_one_click_in_the_gallery_and_the_texts_make_the_same(visit: Any, tmp_path: Path) -> None:
    page = visit()
    shoot(page, "desktop-empty")
    iterations = 12 if DRAW else 3
    number(page, "Iterations", iterations)
    page.get_by_role("tab", name="Gallery").click()
    shoot(page, "desktop-gallery")
    began = time.monotonic()
    page.locator("#gf-wall button").first.click()
    page.wait_for_selector("#gf-pictures img")
    print(f"first picture after {time.monotonic() - began:.1f} s")
    assert f"{iterations} iterations" in result(page)
    assert page.locator("#gf-pictures img").count() == 4
    shoot(page, "desktop-done")
    draw_documentation(page)
    number(page, "Iteration", 1)
    page.get_by_text("iteration 1, loss").first.wait_for()
    page.get_by_text("The same in Python").click()
    python, command = (page.locator(f"#gf-{name} .cm-content").inner_text() for name in ("python", "command"))
    shoot(page, "desktop-texts")
    found = downloads(page, tmp_path)
    assert sorted(found) == ["everything.zip", "guided-00.png", "guided-01.png"]
    for name, text in (("python", python), ("command", command)):
        folder = tmp_path / name
        zipfile.ZipFile(found["everything.zip"]).extractall(folder)
        if name == "python":
            words = [sys.executable, "-c", text]
        else:
            words = shlex.split(text.replace("\\\n", " "))
            assert words[0] == "guideflow"
            words = [sys.executable, "-m", *words]
        subprocess.run(words, cwd=folder, check=True, capture_output=True)
        for picture in ("guided-00.png", "guided-01.png"):
            mine, theirs = images.read_image(found[picture]), images.read_image(folder / "guided" / picture)
            assert torch.equal(mine, theirs), name
    assert "seed" in "".join(images.read_metadata(found["guided-00.png"]))


def test_from_the_upload_to_the_result_with_a_drawn_layout(visit: Any, tmp_path: Path) -> None:
    page = visit()
    drop(page, "avatars-identity", portrait("gus"), portrait("hana"))
    page.locator("#gf-losses input").fill("segmentation")
    page.get_by_role("option", name="avatars-segmentation").click()
    page.keyboard.press("Escape")
    panel = page.locator("#gf-loss-avatars-segmentation")
    paint(page, panel, "rgb(93, 46, 12)")  # of hair
    shoot(page, "desktop-layout")
    number(page, "Iterations", 1)
    page.click("#gf-run")
    result(page)
    page.get_by_text("The same in Python").click()
    python = page.locator("#gf-python .cm-content").inner_text()
    assert '"avatars-identity-reference-1.png", "avatars-identity-reference-2.png"' in python
    assert 'layout="avatars-segmentation-layout.png"' in python
    zipfile.ZipFile(downloads(page, tmp_path)["everything.zip"]).extractall(tmp_path)
    with Image.open(tmp_path / "avatars-segmentation-layout.png") as layout:
        assert layout.getpixel((layout.width // 2, layout.height // 2)) == (93, 46, 12, 255)
        assert layout.getpixel((3, 3))[3] == 0  # where nothing was drawn, all is free


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_only_what_is_painted_on_a_photograph_changes(size: Any, visit: Any, tmp_path: Path) -> None:
    page = visit(size)
    photograph = tmp_path / "photograph.png"
    with Image.open(portrait("ada")) as picture:
        picture.convert("RGB").resize((512, 512)).crop((0, 0, 512, 420)).save(photograph)
    drop(page, "avatars-identity", portrait("ben"))
    page.get_by_text("Start from a photograph").click()
    start = page.locator("#gf-start")
    start.locator("canvas").first.wait_for()
    start.locator("input[type=file]").set_input_files(photograph)
    start.get_by_role("button", name="Brush Size").wait_for()  # the brush is taken up when the photograph is there
    paint(page, start)
    shoot(page, f"{'phone' if size == PHONE else 'desktop'}-mask")
    page.get_by_text("Sampler and solver").click()
    number(page, "Candidates", 1)
    number(page, "Iterations", 2)
    page.click("#gf-run")
    result(page)
    shoot(page, f"{'phone' if size == PHONE else 'desktop'}-masked")
    found = downloads(page, tmp_path)
    zipfile.ZipFile(found["everything.zip"]).extractall(tmp_path)
    begun, mask = (images.read_image(tmp_path / f"{name}.png") for name in ("start", "mask"))
    assert begun.shape == mask.shape == (1, 3, 128, 128) and set(mask.unique().tolist()) == {0.0, 1.0}
    assert mask[0, 0, 64, 64] == 1 and mask[0, 0, 5, 5] == 0 and 0.05 < mask.mean() < 0.5
    painted = mask.bool()
    for name in ("guided-00.png", "guided-01.png"):
        guided = images.read_image(found[name])
        assert torch.equal(guided[~painted], begun[~painted])
        assert (guided - begun)[painted].abs().mean() > 0.02
    if size == DESKTOP:
        words = shlex.split((tmp_path / "make.sh").read_text().replace("\\\n", " "))
        subprocess.run([sys.executable, "-m", *words], cwd=tmp_path, check=True, capture_output=True)
        again = images.read_image(tmp_path / "guided" / "guided-00.png")
        assert torch.equal(again, images.read_image(found["guided-00.png"]))


def test_stop_keeps_the_best_so_far(visit: Any) -> None:
    page = visit()
    drop(page, "avatars-identity", portrait("eve"))
    number(page, "Iterations", 100)
    page.click("#gf-run")
    page.get_by_text(re.compile("Iteration [2-9] of 100")).wait_for()
    shoot(page, "desktop-running")
    page.click("#gf-stop")
    told = result(page, "calm")
    assert re.search(r"Stopped after \d+ iterations?; this is the best so far", told), told
    assert page.locator("#gf-pictures img").count() == 4
    page.wait_for_selector("#gf-files a")
    page.click("#gf-run")  # and it goes on working
    page.get_by_text("Choosing where to start").wait_for()
    page.click("#gf-stop")
    assert "Stopped" in result(page, "calm")


def test_a_bad_file_is_told_in_words_and_the_page_goes_on(visit: Any, tmp_path: Path) -> None:
    page = visit()
    bad = tmp_path / "bad.png"
    bad.write_text("this is no picture")
    page.click("#gf-run")
    assert "needs a reference picture" in result(page, "bad")
    drop(page, "avatars-identity", bad)
    page.click("#gf-run")
    page.get_by_text("bad.png is not an image").wait_for()
    shoot(page, "desktop-bad")
    assert page.locator("#gf-pictures img").count() == 0


def test_a_lost_face_is_told_in_words(visit: Any) -> None:
    page = visit()
    pick_losses(page, "identity")
    drop(page, "identity", PHOTOGRAPH)
    panel = page.locator("#gf-loss-identity")
    panel.get_by_text("Weight and options").click()
    fill(panel, "threshold", "0.9")
    fill(panel, "floor", "0.9")
    page.get_by_text("Sampler and solver").click()
    number(page, "Candidates", 1)
    number(page, "Iterations", 0)
    page.click("#gf-run")
    assert "identity never found what it looks for" in result(page, "warn")
    shoot(page, "desktop-lost")


def test_two_tabs_wait_for_each_other_and_stop_apart(visit: Any) -> None:
    one, two = visit(), visit()
    for page, name in ((one, "ada"), (two, "ben")):
        drop(page, "avatars-identity", portrait(name))
    number(one, "Iterations", 100)
    number(two, "Iterations", 1)
    one.click("#gf-run")
    one.get_by_text(re.compile("Iteration [1-9] of 100")).wait_for()
    two.click("#gf-run")
    two.get_by_text("Waiting for its turn").wait_for()
    two.wait_for_timeout(1500)
    assert two.locator("#gf-pictures img").count() == 0  # one at a time
    one.click("#gf-stop")
    assert "Stopped" in result(one, "calm")
    assert "Done: 1 iteration " in result(two)
    two.close()
    one.click("#gf-run")  # a closed tab holds nobody up
    one.get_by_text("Choosing where to start").wait_for()
    one.click("#gf-stop")
    assert "Stopped" in result(one, "calm")


def test_phone_width(visit: Any) -> None:
    page = visit(PHONE)
    shoot(page, "phone-empty")
    page.get_by_role("tab", name="Gallery").click()
    assert page.locator("#gf-wall button").count() == 8
    for tile in page.locator("#gf-wall button").all():
        box = tile.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= PHONE[0]
    shoot(page, "phone-gallery")
    page.get_by_role("tab", name="Make").click()
    drop(page, "avatars-identity", portrait("dan"))
    number(page, "Iterations", 2)
    page.click("#gf-run")
    result(page)
    shoot(page, "phone-done")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
    assert page.locator("#gf-status").evaluate("one => one.getBoundingClientRect().top") < PHONE[1]  # scrolled to
    for image in page.locator("#gf-pictures img").all():
        assert image.bounding_box()["width"] > 100
