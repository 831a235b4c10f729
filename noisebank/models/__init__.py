"""Model families: one thin adapter for each kind of diffusers pipeline, chosen by its ``model_index.json``."""

from noisebank.models import cogvideox, ltx, stable_diffusion, wan  # noqa: F401 (they register themselves)
from noisebank.models.base import FAMILIES, ClipRules, ModelAdapter, family_of, register_family
from noisebank.models.check import Mismatch, compare
from noisebank.models.config import (
    ModelConfig,
    has_digest,
    model_digest,
    older_model_digest,
    pipeline_config,
    read_model_config,
)
from noisebank.models.layout import from_pipeline, pipeline_inputs, to_pipeline
from noisebank.models.load import check_model, family_code, load_clip_rules, load_for_inversion, load_model

__all__ = ["FAMILIES", "ClipRules", "Mismatch", "ModelAdapter", "ModelConfig", "check_model", "compare"]
__all__ += ["family_code", "family_of", "from_pipeline", "has_digest", "load_clip_rules", "load_for_inversion"]
__all__ += ["load_model", "model_digest", "older_model_digest", "pipeline_config", "pipeline_inputs"]
__all__ += ["read_model_config", "register_family", "to_pipeline"]
