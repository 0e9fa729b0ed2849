"""Small models, data, files and processes that several tests use."""

import pytest

pytest.register_assert_rewrite("making.commands", "making.launching")  # failed assertions show their values
