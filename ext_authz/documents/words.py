"""A request in the words of policy authors that stands in no file."""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from ext_authz.documents.models import SuiteRequest
from ext_authz.documents.problems import describe
from ext_authz.errors import ConfigurationError


def parse_request(value: Mapping[str, Any], locate: Callable[..., str]) -> SuiteRequest:
    """Return the request. `locate` names the place of a key. Raises ConfigurationError with all problems."""
    try:
        return SuiteRequest.model_validate(value)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        raise ConfigurationError(
            [f"{locate(*problem['loc'])}: {describe(problem, SuiteRequest)}" for problem in problems]
        ) from None
