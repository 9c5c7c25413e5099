"""How the units that go are chosen."""
