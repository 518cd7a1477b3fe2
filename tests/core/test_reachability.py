"""Stores that cannot be reached are refused within seconds."""

import socket
import threading
import time

import pytest

from clr_jax.core import reachability
from clr_jax.core.errors import UserError
from clr_jax.core.storage import translate_errors


@pytest.fixture(autouse=True)
def quick(monkeypatch):
  for name in ('https_proxy', 'HTTPS_PROXY', 'all_proxy', 'ALL_PROXY', 'STORAGE_EMULATOR_HOST'):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setattr(reachability, 'SECONDS', 0.2)
  monkeypatch.setattr(reachability, '_PAUSE_SECONDS', 0.1)
  monkeypatch.setattr(reachability, '_reached', set())


@pytest.fixture
def port():
  with socket.socket() as taken:
    taken.bind(('127.0.0.1', 0))
    yield taken.getsockname()[1]  # nobody listens there


def test_a_store_that_cannot_be_reached_is_said_soon(monkeypatch, port):
  monkeypatch.setenv('STORAGE_EMULATOR_HOST', f'127.0.0.1:{port}')
  text = r'^gs://b cannot be reached \(127.0.0.1: Connection refused, .*: check the network, or giv'
  with pytest.raises(UserError, match=text), translate_errors('gs://b/run/x'):
    raise AssertionError('the client is not asked')


def test_a_name_that_is_looked_up_for_ever(monkeypatch):
  ended = threading.Event()

  def look_up(*_, **__):
    ended.wait(20)
    raise OSError

  monkeypatch.setattr(socket, 'create_connection', look_up)
  start = time.monotonic()
  with pytest.raises(UserError, match=r'storage\.googleapis\.com: no answer'):
    reachability.refuse_unreachable('gs://b/run')
  assert time.monotonic() - start < 10
  ended.set()


def test_a_store_is_asked_once(monkeypatch, port):
  with socket.create_server(('127.0.0.1', 0)) as server:
    monkeypatch.setenv('STORAGE_EMULATOR_HOST', f'http://127.0.0.1:{server.getsockname()[1]}')
    reachability.refuse_unreachable('gs://b/run')
  reachability.refuse_unreachable('gs://b/run')  # later failures are left to the client


def test_a_way_through_a_proxy_is_left_to_the_client(monkeypatch, port):
  monkeypatch.setenv('STORAGE_EMULATOR_HOST', f'127.0.0.1:{port}')
  monkeypatch.setenv('https_proxy', 'http://127.0.0.1:1')
  reachability.refuse_unreachable('gs://b/run')
