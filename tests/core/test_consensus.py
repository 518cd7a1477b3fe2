"""Processes that wait for each other, here one with the store of two."""

import threading

import pytest

from clr_jax.core import consensus
from clr_jax.core.errors import OtherProcessFailed, UserError


class Store(dict):
  """Stands in for the store of JAX's coordination service."""

  def key_value_set(self, key, value, *, allow_overwrite):
    assert allow_overwrite
    self[key] = value

  def key_value_dir_get(self, prefix):
    return [(key, value) for key, value in self.items() if key.startswith(f'{prefix}/')]


@pytest.fixture
def two(monkeypatch):
  """The `Lockstep` of each of two processes, and their store."""
  store, made = Store(), []
  monkeypatch.setattr(consensus, 'coordination_store', lambda: store)
  monkeypatch.setattr(consensus.jax, 'process_count', lambda: 2)
  for _ in range(2):
    monkeypatch.setattr(consensus, '_series', iter([7]))
    made.append(consensus.Lockstep())
  monkeypatch.setattr(
    consensus.jax, 'process_index', lambda: int(threading.current_thread().name == 'second')
  )
  return made


def numbers(last, error=None):
  yield from range(last)
  if error is not None:
    raise error


def in_second(work):
  thread = threading.Thread(target=work, name='second')
  thread.start()
  return thread


def test_an_item_is_used_when_both_have_made_it(two):
  first, second = two
  assert list(first.tell(numbers(3))) == [0, 1, 2]
  made = second.tell(numbers(3))
  passed = []

  def wait():
    for number in range(3):
      first.wait(number)
      passed.append(number)

  waiting = threading.Thread(target=wait)
  waiting.start()
  for count in (1, 2, 3):
    assert len(passed) < count
    in_second(lambda: next(made)).join()
    second.wait(count - 1)
  waiting.join(10)
  assert passed == [0, 1, 2]


def test_where_one_cannot_make_an_item_both_stop_before_it(two):
  first, second = two
  assert list(first.tell(numbers(3))) == [0, 1, 2]  # reads ahead

  def fail():
    with pytest.raises(UserError):
      list(second.tell(numbers(2, UserError('x'))))

  in_second(fail).join()
  first.wait(0)
  first.wait(1)
  with pytest.raises(OtherProcessFailed, match='process 1 of this run failed') as failed:
    first.wait(2)
  assert failed.value.code == 2


def test_alone_nothing_is_waited_for():
  lockstep = consensus.Lockstep()
  assert list(lockstep.tell(numbers(2))) == [0, 1]
  lockstep.wait(5)
