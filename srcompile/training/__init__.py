"""Training of pools and routers: students, distillation, the gate, its operating point.

A recipe says what is trained; `stages` trains it, as `srtrain` does.
"""

from srcompile.training.architecture import Classifier, Student
from srcompile.training.aware import Aware
from srcompile.training.fit import Settings
from srcompile.training.recipe import Recipe, load_recipe
from srcompile.training.router import Gate, Router
from srcompile.training.stages import (
    calibrate,
    evaluate_pool,
    train_pool,
    train_router,
)
from srcompile.training.store import Trained, load_pool, save_pool

__all__ = [
    "Aware",
    "Classifier",
    "Gate",
    "Recipe",
    "Router",
    "Settings",
    "Student",
    "Trained",
    "calibrate",
    "evaluate_pool",
    "load_pool",
    "load_recipe",
    "save_pool",
    "train_pool",
    "train_router",
]
