"""A bundle by name, and what a tenant sees of it."""

from pfm.errors import BundleError, ClassNameError
from pfm_export.service.refusals import RefusedError, bad_request
from pfm_export.service.tenants import Tenant
from pfm_export.service.views import View
from pfm_export.serving.answers import ActiveSet
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.served import ServedBundle


class Shown:
    """One bundle."""

    def __init__(self, name: str, served: ServedBundle) -> None:
        self.name = name
        self.served = served
        self._views: tuple[Bundle | None, dict[str | None, View]] = (None, {})

    def view(self, tenant: Tenant, asked: str | None = None, *, is_fresh: bool = True) -> View:
        """What there is for a tenant, as the bundle is now.

        Args:
            asked: the profile that a request names.
            is_fresh: look at the files; else it is the bundle that was seen last.

        Raises:
            RefusedError: nothing.
        """
        profile = tenant.profile_for(asked)
        try:
            bundle = self.served.bundle if is_fresh else self.served.seen
            owner, views = self._views
            if owner is not bundle:  # something was erased, suspended or restored
                views = {}
                self._views = (bundle, views)
            if profile not in views:
                names = tuple(bundle.classes.names[p] for p in ActiveSet(profile=profile).positions(bundle))
                views[profile] = View(classes=names, profile=profile, is_whole=len(names) == len(bundle.classes))
            return views[profile]
        except ClassNameError as error:
            if tenant.is_bound:
                raise RefusedError(403, "forbidden", f"this token is not for the model {self.name}") from error
            if profile is None:  # the default one leaves out all that are left
                raise bad_request(f"no class of the model {self.name} is active now") from error
            raise bad_request(f"there is no profile {profile[:80]!r}") from error
        except BundleError as error:
            raise unserved(self.name) from error


def unserved(name: str) -> RefusedError:
    """The bundle was damaged or replaced; where it is, is not for clients."""
    return RefusedError(503, "bundle", f"the model {name} cannot be served: its files were changed or damaged")
