"""Adversarial attacks on image classifiers: pure, batched, one compiled step per call."""

from clr_jax.evaluation.attacks.apgd import apgd as apgd
from clr_jax.evaluation.attacks.apgd import apgd_targeted as apgd_targeted
from clr_jax.evaluation.attacks.base import AttackResult as AttackResult
from clr_jax.evaluation.attacks.base import Classifier as Classifier
from clr_jax.evaluation.attacks.base import Problem as Problem
from clr_jax.evaluation.attacks.pgd import pgd as pgd
from clr_jax.evaluation.attacks.plb import plb as plb
from clr_jax.evaluation.attacks.square import square as square
from clr_jax.evaluation.attacks.starts import gaussian_start as gaussian_start
from clr_jax.evaluation.attacks.worst_case import WorstCase as WorstCase
from clr_jax.evaluation.attacks.worst_case import auto_attacks as auto_attacks
from clr_jax.evaluation.attacks.worst_case import worst_case as worst_case
