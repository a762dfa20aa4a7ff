"""The region CLIP in training: masked crops and nouns, contextual shift (sec. 3.2 end, 4.2).

The image tower learns, the text tower and the original CLIP stay as they are. Each crop's shift
takes the [CLS] tokens that the original CLIP forms of the crop's own, whole photo.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from lightning import LightningModule
from torch import Tensor, nn

from scanseg.calibration.contextual_shift import ContextualShift
from scanseg.segmenter import Segmenter
from scanseg.training.config import Experiment
from scanseg.training.crop_batches import CropBatch
from scanseg.training.optimizers import adamw, parameter_groups, schedule
from scanseg.training.order import Batches, derived_seed

TOKEN_SPREAD = 0.02  # of the learnable token at the start


class ClipStage(LightningModule):
    """Trains the region CLIP's image tower, the logit scale and, if asked for, the shift token.

    Args:
        segmenter: the model; its region CLIP is changed in place.
        experiment: settings.
        text: (nouns, D) unit-norm embeddings of all nouns of the pairs.
    """

    def __init__(self, segmenter: Segmenter, experiment: Experiment, text: Tensor) -> None:
        super().__init__()
        self.experiment, settings = experiment, experiment.clip
        self.strict_loading = False  # checkpoints hold what trains only
        self.segmenter = segmenter.requires_grad_(False)
        self.register_buffer("text", text, persistent=False)
        tower: Any = segmenter.region_clip
        self.tower = tower
        if settings.shift_source == "learnable":
            generator = torch.Generator().manual_seed(derived_seed(experiment.trainer.seed, 5))
            token = torch.randn(tower.vision_width, generator=generator) * TOKEN_SPREAD
            segmenter.learnable_shift = nn.Parameter(token)
        tower.model.visual.requires_grad_(True)
        start = min(float(tower.model.logit_scale), math.log(settings.scale_cap))
        self.logit_scale = nn.Parameter(torch.tensor(start), requires_grad=settings.train_scale)

    def trainable(self) -> dict[str, nn.Parameter]:
        """What trains, by name, each once."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def features(self, batch: CropBatch, seed: int) -> Tensor:
        """Shifted features of the crops, (B, D), unit norm (eq. 5)."""
        segmenter, settings = self.segmenter, self.experiment.clip
        inference = segmenter.recipe.settings
        with torch.no_grad():
            context = segmenter.clip.encode_image(batch.photos, semantics=inference.semantics)
        shift = ContextualShift(
            context,
            layers=settings.shift_layers or segmenter.recipe.shift_layers,
            ratio=settings.shift_ratio,
            source=settings.shift_source,
            seed=seed,
            semantics=inference.semantics,
            learnable=segmenter.learnable_shift,
        )
        regions = batch.regions(0)
        shown = batch.photos if batch.around is None else batch.around
        regions = shift.prepare(
            regions, shown, grid=self.tower.grid, mean=self.tower.pixel_mean,
            std=self.tower.pixel_std, semantics=inference.semantics,
        )  # fmt: skip
        return self.tower.encode_regions(regions, context, shift)

    def training_step(self, batch: CropBatch, batch_idx: int) -> Tensor:
        """One part of one step; the draws follow from seed and position alone."""
        trainer = self.experiment.trainer
        group = Batches(trainer, rank=self.global_rank).group(
            self.global_step, batch_idx % trainer.accumulate
        )
        features = self.features(batch, derived_seed(trainer.seed, 3, group))
        nouns = batch.nouns
        if self.trainer.world_size > 1:  # the words of all devices are each other's negatives
            features = self.all_gather(features, sync_grads=True).flatten(0, 1)
            nouns = self.all_gather(nouns).flatten()
        scale = self.logit_scale.exp()
        loss, agreement = contrastive(features, self.text[nouns], nouns, scale)
        self.log_dict(
            {"loss": loss.detach(), "agreement": agreement, "scale": scale.detach()},
            on_step=True, on_epoch=False, batch_size=len(batch.nouns),
        )  # fmt: skip
        return loss

    def optimizer_step(self, *arguments: Any, **more: Any) -> None:
        """A step that leaves the logit scale in its bounds, before anything is saved."""
        super().optimizer_step(*arguments, **more)
        with torch.no_grad():
            self.logit_scale.clamp_(0.0, math.log(self.experiment.clip.scale_cap))

    def configure_optimizers(self) -> Any:
        """AdamW, no decay on what has one dimension, warm-up and cosine."""
        experiment = self.experiment
        optimizer = adamw(parameter_groups(self, experiment.optimizer), experiment.optimizer)
        found = schedule(optimizer, experiment.schedule, experiment.trainer.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": found, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out what does not train."""
        trained = self.trainable().keys()
        kept = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}
        checkpoint["state_dict"] = kept


def contrastive(
    features: Tensor, text: Tensor, nouns: Tensor, scale: Tensor | float
) -> tuple[Tensor, Tensor]:
    """CLIP's symmetric loss, where pairs of the same noun are no negatives of each other.

    Crops ask for their words and words for their crops; the target of each is shared equally by
    all pairs of the batch with the same noun. Without such pairs this is CLIP's own loss
    (docs/decisions/0070-equal-nouns.md).

    Args:
        features: (B, D) of the crops, unit norm.
        text: (B, D) of their nouns, unit norm.
        nouns: (B,) number of each noun.
        scale: factor of the cosine.

    Returns:
        The loss, and the share of crops whose likeliest word is their noun, in float32 under any
        autocast.
    """
    with torch.autocast(features.device.type, enabled=False):
        logits = scale * features.float() @ text.float().T  # (B, B), crops x words
        same = (nouns[:, None] == nouns[None]).to(logits.dtype)
        target = same / same.sum(1, keepdim=True)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    agreement = (nouns[logits.argmax(1)] == nouns).float().mean()
    return loss, agreement.detach()
