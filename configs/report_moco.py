"""MoCo + SogCLR and REAL on CIFAR-10 and CIFAR-100: two rows of table 1 of the TAMU report.

  clr-jax train --config=configs/report_moco.py:cifar10-moco --workdir=DIR

Argument DATASET-METHOD[-VARIANT]; published top-1 in percent (the baseline has 89.36 and 59.22, see
`report_sogclr.py`, whose protocol and other numbers hold here too):

  method  variant         CIFAR-10  CIFAR-100  row of table 1
  moco    (none)            89.87     60.21    MOCO+SogCLR, algorithm 1
  moco    as-published      89.87     60.21    the same as its code computes it
  real    (none)            87.47     55.36    REAL, section 3.4: keys within a radius
  real    as-published      87.47     55.36    the same as its code computes it
  real    top-p, top-k        -         -      none: other forms of retrieval

The report does not say which code made its rows, so both forms have the row as their target. Where
they differ: `as-published` divides by the temperature twice, stores the sum of the views' averages
u, does not treat a first visit apart, and REAL counts an image's own key as near its query and
divides its radius by the 128 outputs; the others are free of these defects (without the last one
the radius leaves out few keys).

Where the numbers come from. Report, section 4, and its code (hxu105/TAMU_CSCE689_OPT): temperature
0.3, gamma 0.9, queue 65536 ("65336" in the text), output 128, radius 0.5 at the start; momentum
0.999. top-p keeps half of the keys and top-k compares with 1024 rows of the queue: no published
values. The queue is longer than the 50,000 training images and holds older keys of the batch's own
images, as the report's does; `--config.method.queue_length=32768` avoids that.
"""

import report_sogclr

from clr_jax.experiment import config_base as common
from clr_jax.experiment.config_files import choose

PUBLISHED = {'temperature_twice': True, 'combine': 'sum', 'first_visit': 'none'}
FORMS = {
  'moco': ('dynamic_moco', {}),
  'moco-as-published': ('dynamic_moco', PUBLISHED),
  'real': ('real', {'retrieval': 'radius'}),
  'real-as-published': ('real', {'retrieval': 'radius', 'as_published': True, **PUBLISHED}),
  'real-top-p': ('real', {'retrieval': 'top_p', 'top_p': 0.5}),
  'real-top-k': ('real', {'retrieval': 'top_k', 'top_k': 1024}),
}
CHOICES = {
  f'{dataset}-{form}': (dataset, *parts)
  for dataset in report_sogclr.DATASETS
  for form, parts in FORMS.items()
}


def get_config(argument: str = 'cifar10-moco'):
  dataset, name, options = choose(argument, CHOICES, 'cifar10-moco')
  config = report_sogclr.get_config(dataset)
  config.method = common.method(
    name,
    temperature=0.3,
    gamma=0.9,
    queue_length=65536,
    momentum=0.999,
    projector='sogclr',
    hidden_dim=2048,
    out_dim=128,
    **options,
  )
  return config
