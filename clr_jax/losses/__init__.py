"""Losses: pure functions of the global batch's embeddings. No Flax, no collectives, no config.

Modules of this package also hold the parts that act inside another loss: margins, mixed negatives,
transformed features and retrieved negatives.
"""

from clr_jax.losses.alignment import arb as arb
from clr_jax.losses.alignment import embedding_std as embedding_std
from clr_jax.losses.alignment import w_mse as w_mse
from clr_jax.losses.bimodal import bimodal_sogclr as bimodal_sogclr
from clr_jax.losses.clustering import assignments as assignments
from clr_jax.losses.clustering import swav as swav
from clr_jax.losses.contrastive import ntxent as ntxent
from clr_jax.losses.contrastive import supcon as supcon
from clr_jax.losses.contrastive import tcl as tcl
from clr_jax.losses.decoupled import dcl as dcl
from clr_jax.losses.decoupled import dcl_weights as dcl_weights
from clr_jax.losses.decoupled import flatnce as flatnce
from clr_jax.losses.decoupled import hcl as hcl
from clr_jax.losses.decoupled import pair_scores as pair_scores
from clr_jax.losses.decoupled import rpc as rpc
from clr_jax.losses.distillation import dino as dino
from clr_jax.losses.distillation import ressl as ressl
from clr_jax.losses.global_contrastive import combine_log_u as combine_log_u
from clr_jax.losses.global_contrastive import first_visit_gamma as first_visit_gamma
from clr_jax.losses.global_contrastive import sogclr as sogclr
from clr_jax.losses.queue import nearest as nearest
from clr_jax.losses.queue import queue_infonce as queue_infonce
from clr_jax.losses.queue import queue_logits as queue_logits
from clr_jax.losses.redundancy import barlow_twins as barlow_twins
from clr_jax.losses.redundancy import cross_correlation as cross_correlation
from clr_jax.losses.redundancy import tico as tico
from clr_jax.losses.redundancy import vicreg as vicreg
from clr_jax.losses.score_statistics import uniformity as uniformity
from clr_jax.losses.temperatures import temperature_gradient as temperature_gradient
from clr_jax.losses.temperatures import temperature_step as temperature_step
from clr_jax.losses.tikhonov import input_gradient_penalties as input_gradient_penalties
