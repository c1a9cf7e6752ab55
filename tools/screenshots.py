"""Screenshots of every page of the built site, and what on them does not fit.

    make docs && .venv/bin/python tools/screenshots.py --out out/pages

Each page is drawn by Chromium as wide as on a desk and on a phone. Code and tables that scroll sideways, pictures
without a description, links that lead nowhere and formulas that were not turned are printed, a line each.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlparse

WIDTHS = (1280, 390)
LOOK = """
() => {
  const text = e => (e.innerText || "").trim().split("\\n")[0].slice(0, 60);
  const found = [];
  const wide = document.documentElement.scrollWidth - window.innerWidth;
  if (wide > 0) found.push(`the page is ${wide} px too wide`);
  for (const e of document.querySelectorAll("article pre code, article .md-typeset__scrollwrap, article .formula")) {
    const more = e.scrollWidth - e.clientWidth;
    if (more > 1) found.push(`${e.tagName.toLowerCase()} ${more} px too wide: ${text(e)}`);
  }
  for (const e of document.querySelectorAll("article img")) {
    if (!e.alt) found.push(`no description: ${e.src}`);
    if (!e.naturalWidth) found.push(`not loaded: ${e.src}`);
  }
  for (const e of document.querySelectorAll("article .arithmatex, article merror"))
    found.push(`a formula that was not turned: ${text(e)}`);
  return found;
}
"""
LINKS = "() => [...document.querySelectorAll('article a[href]')].map(a => a.href)"


def dead(site: Path, links: list[str]) -> list[str]:
    """Links into the site whose page or heading is not there."""
    found = []
    for link in sorted(set(links)):
        address, anchor = urldefrag(link)
        if urlparse(address).scheme != "file":
            continue
        path = Path(unquote(urlparse(address).path))
        page = path / "index.html" if path.is_dir() else path
        if not page.is_file():
            found.append(f"dead link: {link}")
        elif anchor and f'id="{unquote(anchor)}"' not in page.read_text(errors="replace"):
            found.append(f"no such heading: {link}")
    return found


def main() -> int:
    """Draw all pages; return 1 if something does not fit on a desk."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--site", type=Path, default=Path("site"), help="what `make docs` has built")
    parser.add_argument("--out", type=Path, default=Path("out/pages"), help="folder for the screenshots")
    parser.add_argument("--only", default="", help="pages whose path holds this")
    asked = parser.parse_args()
    from playwright.sync_api import sync_playwright

    browser_path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    pages = sorted(page for page in asked.site.resolve().rglob("index.html") if asked.only in str(page.parent))
    if not pages:
        sys.exit(f"No page in {asked.site}. Type: make docs")
    asked.out.mkdir(parents=True, exist_ok=True)
    bad = 0
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"])
        for width in WIDTHS:
            tab = browser.new_page(viewport={"width": width, "height": 900})
            for page in pages:
                tab.goto(page.as_uri())
                tab.wait_for_load_state("networkidle")
                name = page.parent.relative_to(asked.site.resolve()).as_posix().replace("/", "-").strip(".") or "home"
                tab.screenshot(path=asked.out / f"{name}-{width}.png", full_page=True)
                found = tab.evaluate(LOOK)
                if width == max(WIDTHS):
                    links = [urljoin(page.as_uri(), link) for link in tab.evaluate(LINKS)]
                    found += dead(asked.site, [f"{link}index.html" if link.endswith("/") else link for link in links])
                    bad += len(found)
                for line in found:
                    print(f"{name} at {width}: {line}")
        browser.close()
    print(f"{len(pages)} pages in {asked.out}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
