"""SCAN's segmentation model in training (sec. 3.1 and 4.2), as a lightning module.

The original CLIP is frozen and read once per batch. The predictions of *all* decoder layers go
through semantic integration, each is compared with the words of the data sets and with the void
embedding, and each is supervised.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn

from scanseg.calibration.semantic_integration import SemanticIntegration
from scanseg.contracts import InputError
from scanseg.fusion import TermOwners, in_vocabulary_logits
from scanseg.proposals.mask2former import Mask2FormerProposals
from scanseg.segmenter import Segmenter
from scanseg.training.config import DataConfig, Experiment
from scanseg.training.crops import Batch, targets_of
from scanseg.training.losses import Losses, Prediction, criterion
from scanseg.training.optimizers import adamw, parameter_groups, schedule
from scanseg.training.order import Batches, derived_seed


class SegmenterStage(LightningModule):
    """Trains proposals, semantic integration and the void embedding; CLIP stays as it is.

    Args:
        segmenter: the model; it is changed in place.
        experiment: settings.
        text: (T, D) embeddings of the classes of all data sets, in the order of the label maps; the
            first K words are these. Made once: neither words nor CLIP change.
        owners: the label that each row speaks for.
        candidates: (data sets, K) bool, the classes of each; ``None``: all have all.
        sources: settings of each data set.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        experiment: Experiment,
        text: Tensor,
        owners: TermOwners,
        candidates: Tensor | None,
        sources: Sequence[DataConfig],
    ) -> None:
        super().__init__()
        if not isinstance(segmenter.proposals, Mask2FormerProposals):
            raise InputError("this stage trains SCAN models: vit_b, vit_l or tiny")
        self.experiment, self.sources = experiment, tuple(sources)
        self.strict_loading = False  # checkpoints hold what trains, not the frozen CLIP
        if candidates is not None:  # background words of the preset may always be said
            more = owners.labels - candidates.shape[1]
            candidates = nn.functional.pad(candidates, (0, more), value=True)
        self.segmenter = segmenter.requires_grad_(False)
        self.register_buffer("text", text, persistent=False)
        self.register_buffer("owner", owners.owner, persistent=False)
        self.register_buffer("candidates", candidates, persistent=False)
        self.labels = owners.labels
        for part in self.trained_parts:
            part.requires_grad_(True)

    @property
    def trained_parts(self) -> list[Any]:
        """Modules and parameters that train."""
        found = [self.segmenter.proposals, self.segmenter.integration, self.segmenter.void]
        return [part for part in found if part is not None]

    def trainable(self) -> dict[str, nn.Parameter]:
        """What trains, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def train(self, mode: bool = True) -> SegmenterStage:
        """Dropout and drop path in what trains only."""
        super().train(False)
        self.training = mode
        for part in self.trained_parts:
            if isinstance(part, nn.Module):
                part.train(mode)
        return self

    def forward(self, pixels: Tensor) -> list[Prediction]:
        """Predictions of all layers for (B, 3, h, w) uint8 photos: masks, labels and void."""
        segmenter, owners = self.segmenter, TermOwners(self.owner, self.labels)
        proposals, integration = segmenter.proposals, segmenter.integration
        assert isinstance(proposals, Mask2FormerProposals)
        with torch.no_grad():
            context = segmenter.clip.encode_image(
                pixels,
                layers=segmenter.recipe.token_layers,
                semantics=segmenter.recipe.settings.semantics,
            )
        layers = proposals.forward_layers(pixels)
        memory = None
        if isinstance(integration, SemanticIntegration) and integration.config.use_spatial:
            memory = integration.memory(context, dtype=layers[-1].mask_logits.dtype)
        predictions = []
        for layer in layers:
            embeddings = layer.embeddings
            assert embeddings is not None
            if isinstance(integration, SemanticIntegration):
                embeddings = integration(embeddings, context, memory=memory)  # eq. 1-3
            logits = in_vocabulary_logits(
                embeddings, self.text, owners, segmenter.void, segmenter.recipe.embedding_scale
            )
            predictions.append(Prediction(layer.mask_logits, logits))
        return predictions

    def losses(self, batch: Batch) -> Losses:
        """All terms for a batch."""
        targets = targets_of(batch, self.sources, self.candidates)
        predictions, settings = self(batch.pixels), self.experiment.loss
        return criterion(predictions, targets, settings, masks_per_batch=batch.masks_per_batch)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Points and dropout follow from seed and position, so a resumed run draws the same."""
        trainer = self.experiment.trainer
        group = Batches(trainer, rank=self.global_rank).group(
            self.global_step, batch_idx % trainer.accumulate
        )
        torch.manual_seed(derived_seed(trainer.seed, 2, group))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One part of one step."""
        found = self.losses(batch)
        self.log_dict(found.terms(), on_step=True, on_epoch=False, batch_size=len(batch.pixels))
        return found.total

    def configure_optimizers(self) -> Any:
        """AdamW with the released groups, warm-up and poly decay."""
        experiment = self.experiment
        optimizer = adamw(parameter_groups(self, experiment.optimizer), experiment.optimizer)
        found = schedule(optimizer, experiment.schedule, experiment.trainer.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": found, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out what does not train."""
        trained = self.trainable().keys()
        kept = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}
        checkpoint["state_dict"] = kept
