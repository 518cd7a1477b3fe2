"""Prepares one TFDS data set as array_record: `python -m clr_jax.data.prepare_tfds NAME`.

The only part that needs TensorFlow; `load_source` runs it in a child process. The last line on
standard output gives the reason of a failure.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading


def main(argv: list[str] | None = None) -> int:
  """Downloads and prepares; returns the exit status."""
  parser = argparse.ArgumentParser(description='Prepare a TFDS data set as array_record.')
  parser.add_argument('name', help="'cifar10', 'name/config' or 'name:1.2.3'")
  parser.add_argument('--data_dir', help='default: $TFDS_DATA_DIR, else ~/tensorflow_datasets')
  parser.add_argument(
    '--with_parent', action='store_true', help='end when standard input is closed, by no signal'
  )
  args = parser.parse_args(argv)
  if args.with_parent:
    _end_with_parent()
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  try:
    import tensorflow_datasets as tfds

    builder = tfds.builder(args.name, data_dir=args.data_dir, file_format='array_record')
    # TFDS's mirror on Google Cloud holds other formats.
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    builder.download_and_prepare(download_config=config)
  except (Exception, SystemExit) as error:  # whatever TFDS, a builder or the network raises
    print(f'{type(error).__name__}: {" ".join(str(error).split())}')
    return 1
  return 0


def _end_with_parent() -> None:
  """A terminal sends its signals to this process, too: the parent says when to end."""
  for name in ('SIGTERM', 'SIGINT', 'SIGHUP'):
    if hasattr(signal, name):
      signal.signal(getattr(signal, name), signal.SIG_IGN)

  def wait() -> None:
    sys.stdin.buffer.read()
    os._exit(1)

  threading.Thread(target=wait, daemon=True).start()


if __name__ == '__main__':
  sys.exit(main())
