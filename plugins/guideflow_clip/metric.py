"""`prompt-agreement`: how far a picture shows what its prompt says, as CLIP sees them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, ClassVar, final

from torch import Tensor, nn

from guideflow.losses.networks import freeze
from guideflow.metrics import Case, LossMetric
from guideflow_clip.loss import Clip
from guideflow_clip.models import load_clip


@final
class PromptAgreement(LossMetric):
    """Cosine between a picture and its prompt in CLIP's space.

        m(x) = cos(E(x), E_text(prompt))

    About 0.2 to 0.35 with OpenAI's ViT-B/32; only differences mean something.

    Arguments:
        network: A name of open_clip, a folder with `open_clip_config.json` and weights, "owner/name" on the Hub, or a
            module with `encode_image` and `encode_text`.
        checkpoint: Tag of published weights, by default "openai", or a file of weights.
        quick_gelu: Whether weights from a file were trained with QuickGELU, where that cannot be told.
        tokenizer: For a module: callable from a list of texts to tokens (N, L).
        device: Where the network runs.

    Raises:
        InvalidArgument: If there is no such network.
        MissingWeights: If the weights are not here and cannot be downloaded.

    Source: Radford et al. 2021; as CLIP-T in the evaluation of DreamBooth (Ruiz et al. 2023).
    """

    name = "prompt-agreement"
    needs: ClassVar[tuple[str, ...]] = ("prompt",)

    def __init__(
        self,
        *,
        network: str | Path | nn.Module = "ViT-B-32",
        checkpoint: str | Path | None = None,
        quick_gelu: bool | None = None,
        tokenizer: Callable[[list[str]], Tensor] | None = None,
        device: str = "cpu",
    ) -> None:
        if not isinstance(network, nn.Module):
            loaded = load_clip(network, checkpoint, quick_gelu=quick_gelu)
            network, tokenizer = loaded.network, tokenizer or loaded.tokenizer
        self._network, self._tokenizer, self._device = freeze(network, device), tokenizer, device

    def make(self, case: Case) -> Clip:
        """Encode the prompt."""
        return Clip(case.prompt, network=self._network, tokenizer=self._tokenizer, device=self._device)

    def key(self, case: Case) -> Hashable:
        """Pictures of one prompt share its encoding."""
        return case.prompt

    def values(self, loss: Any, images: Tensor) -> Tensor:
        """Return the cosines."""
        return super().values(loss, images.to(self._device))
