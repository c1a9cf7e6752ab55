"""Content credentials: a statement in a picture, signed with your certificate, that a generator made it (C2PA).

Two variables of the environment name PEM files: `GUIDEFLOW_C2PA_CERTIFICATE` the chain of certificates, the signer's
own first, and `GUIDEFLOW_C2PA_KEY` its private key. `GUIDEFLOW_C2PA_ALGORITHM` is es256 unless said otherwise.
"""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any, Final

from guideflow._require import require
from guideflow.errors import InvalidArgument, MissingExtra

CERTIFICATE: Final = "GUIDEFLOW_C2PA_CERTIFICATE"
KEY: Final = "GUIDEFLOW_C2PA_KEY"
ALGORITHM: Final = "GUIDEFLOW_C2PA_ALGORITHM"

_GENERATED: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_FORMATS: Final = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "WEBP": "image/webp",
    "TIFF": "image/tiff",
    "AVIF": "image/avif",
}
_ASIDE: Final = {"builder": {"thumbnail": {"enabled": False}}, "verify": {"remote_manifest_fetch": False}}
"""A second copy of the picture is not needed, and what a stranger's file names on the network is not fetched."""


def wanted() -> bool:
    """Whether a certificate to sign with is named."""
    return bool(os.environ.get(CERTIFICATE) or os.environ.get(KEY))


def check() -> None:
    """Refuse, before the work, a certificate that could not be signed with after it.

    Raises:
        InvalidArgument: if a file is missing or does not sign.
        MissingExtra: if c2pa-python is not installed.
    """
    if wanted():
        from PIL import Image

        Image.new("RGB", (8, 8)).save(content := io.BytesIO(), format="PNG")
        sign(content.getvalue(), "check")


def sign(png: bytes, title: str) -> bytes:
    """Return a PNG with credentials.

    Arguments:
        png: the file's content.
        title: its name.

    Raises:
        InvalidArgument: if the certificate or its key is missing or does not fit.
        MissingExtra: if c2pa-python is not installed.
    """
    c2pa = require("c2pa", extra="provenance")
    action = {"action": "c2pa.created", "digitalSourceType": _GENERATED}
    manifest = {
        "claim_generator_info": [{"name": "guideflow"}],
        "title": title,
        "assertions": [{"label": "c2pa.actions", "data": {"actions": [action]}}],
    }
    try:
        algorithm = os.environ.get(ALGORITHM) or "es256"
        info = c2pa.C2paSignerInfo(algorithm, _content(CERTIFICATE), _content(KEY), None)
        with (
            c2pa.Signer.from_info(info) as signer,
            c2pa.Context.from_dict(_ASIDE) as context,
            c2pa.Builder(json.dumps(manifest), context) as builder,
        ):
            builder.sign(signer, "image/png", io.BytesIO(png), signed := io.BytesIO())
    except c2pa.C2paError as error:
        raise InvalidArgument(
            f"The certificate that {CERTIFICATE} names does not sign: {' '.join(str(error).split())}. Expected a chain "
            f"of PEM certificates, the signer's own first, whose key is in {KEY} and of the kind that {ALGORITHM} says."
        ) from error
    return signed.getvalue()


def read(path: Path, form: str | None) -> dict[str, Any] | str:
    """Return the credentials in a file: who signed, what was done, whether that holds; or in words why there are none.

    Arguments:
        path: a picture that need not be trusted.
        form: its format, as Pillow names it.
    """
    try:
        c2pa = require("c2pa", extra="provenance")
    except MissingExtra as error:
        return f"not looked for: {error}"
    if form not in _FORMATS:
        return f"not looked for in a file of the format {form}"
    try:
        with (
            path.open("rb") as file,
            c2pa.Context.from_dict(_ASIDE) as context,
            c2pa.Reader(_FORMATS[form], file, context=context) as reader,
        ):
            found = json.loads(reader.json())
        manifest = found["manifests"][found["active_manifest"]]
        actions = [
            action for one in manifest.get("assertions", []) for action in one.get("data", {}).get("actions", [])
        ]
        return {
            "signed by": manifest.get("signature_info", {}).get("common_name"),
            "issuer": manifest.get("signature_info", {}).get("issuer"),
            "made with": ", ".join(str(one.get("name")) for one in manifest.get("claim_generator_info", [])),
            "actions": [str(action.get("action")) for action in actions],
            "generated": any(
                str(action.get("digitalSourceType", "")).endswith("lgorithmicMedia") for action in actions
            ),
            "state": str(found.get("validation_state")),
            "problems": [str(one.get("code")) for one in found.get("validation_status", [])],
        }
    except Exception as error:  # of a damaged file, or none in it
        why = " ".join(str(error).split())
        return (
            "none"
            if "ManifestNotFound" in type(error).__name__ + why or "no JUMBF" in why
            else f"unreadable: {why[:200]}"
        )


def _content(variable: str) -> bytes:
    name = os.environ.get(variable)
    if not name:
        raise InvalidArgument(f"Content credentials need {variable}, the path of a PEM file, too. Set it.")
    try:
        return Path(os.path.expanduser(name)).read_bytes()
    except OSError as error:
        raise InvalidArgument(
            f"{variable}={name} cannot be read: {error.strerror}. Give the path of a PEM file."
        ) from error
