"""Erasing, suspending and restoring while the server runs: what a tenant may, and the certificate as the answer.

The files of the bundle are changed; every worker looks at them when a pass begins and ends. So no request that starts
after the answer is answered with an erased or suspended class, whichever worker takes it.
"""

import datetime
from collections.abc import Callable
from typing import Protocol

from pfm.errors import BundleError, ClassNameError, PfmError
from pfm.forgetting import certificate
from pfm.forgetting.keys import load_key
from pfm.storage import Json, sha256
from pfm_export.service.journal import Asked, Journal
from pfm_export.service.logs import log_error, system_reason
from pfm_export.service.refusals import RefusedError, bad_request, unknown_class
from pfm_export.service.shown import Shown, unserved
from pfm_export.service.tenants import Tenant
from pfm_export.service.views import View
from pfm_export.serving.bundle import DEFAULT_PROFILE
from pfm_export.serving.content import bundle_content

UNCERTIFIED = "the classes are erased, and their certificate is missing; ask again with the same request_id"
UNDONE = "the change was not made, or not recorded"
NO_SUCH = "a class that was named is not there, or no class would be left"


class Changer(Protocol):
    """Changes bundles for tenants; blocks, so not for the thread that answers requests."""

    def carry_out(self, model: Shown, tenant: Tenant, asked: Asked) -> Json:
        """Whatever is asked.

        Raises:
            RefusedError: it is refused, or it could not be done.
        """
        ...


class Changes:
    """Changes bundles for tenants; blocks, so not for the thread that answers requests.

    Args:
        journal: what was answered before.
        count: is told what was done: of which model, what, to how many classes.
    """

    def __init__(self, journal: Journal, count: Callable[[str, str, int], None]) -> None:
        self._journal = journal
        self._count = count

    def carry_out(self, model: Shown, tenant: Tenant, asked: Asked) -> Json:
        """Whatever is asked.

        Raises:
            RefusedError: as `erase`, `suspend` and `restore`.
        """
        return {"erase": self.erase, "suspend": self.suspend, "restore": self.restore}[asked.action](
            model, tenant, asked
        )

    def erase(self, model: Shown, tenant: Tenant, asked: Asked) -> Json:
        """Erase classes for good, and answer with the certificate.

        A tenant that does not see every class gets the certificate's hash: it names the classes that are left.

        Raises:
            RefusedError: a class that is not there for the tenant; or the certificate could not be made.
        """
        is_whole = _sees_all(model, tenant)

        def act() -> Json:
            there = [name for name in asked.classes if model.served.classes.knows(name)]
            if there:
                # what else is in the folder is named in the record, and so in the certificate
                model.served.erase(
                    there, reason=asked.reason, requested_by=asked.requested_by, allow_unknown=True,
                    centre_prompts=asked.centre_prompts,
                )  # fmt: skip
                self._count(model.name, asked.action, len(there))
            signed = self._certify(model, asked)
            return {**_head(asked), "erased": list(asked.classes), "is_whole": is_whole, "certificate": signed}

        answer = self._once(model, tenant, asked, act)
        is_told = answer["is_whole"] is True and _sees_all(model, tenant)
        told = {name: value for name, value in answer.items() if name != "is_whole"}
        certified = told["certificate"] if is_told else None
        return {**told, "certificate": certified, "certificate_sha256": sha256(self._journal.certificate(asked))}

    def suspend(self, model: Shown, tenant: Tenant, asked: Asked) -> Json:
        """Leave classes out of a profile.

        Raises:
            RefusedError: a class that is not there for the tenant, or none would be left.
        """
        return self._in_profile(model, tenant, asked, model.served.suspend)

    def restore(self, model: Shown, tenant: Tenant, asked: Asked) -> Json:
        """Undo `suspend`.

        Raises:
            RefusedError: there is no such class or profile.
        """
        return self._in_profile(model, tenant, asked, model.served.restore)

    def _in_profile(self, model: Shown, tenant: Tenant, asked: Asked, change: Callable[..., None]) -> Json:
        profile = asked.profile or DEFAULT_PROFILE

        def act() -> Json:
            change(asked.classes, profile=profile)
            self._count(model.name, asked.action, len(asked.classes))
            return {**_head(asked), "profile": profile, "active": list(self._view(model, tenant, asked).classes)}

        return self._once(model, tenant, asked, act)

    def _once(self, model: Shown, tenant: Tenant, asked: Asked, act: Callable[[], Json]) -> Json:
        def check() -> None:
            if asked.centre_prompts and model.served.bundle.prompts_centred is None:
                raise bad_request("this model has no prompts that could be centred")
            if tenant.is_bound and asked.action != "restore":
                view = model.view(tenant)
                view.require(asked.classes)
                if set(asked.classes) >= set(view.classes):  # whether others are there, is not for this tenant
                    raise unknown_class(NO_SUCH)
            elif not all(model.served.classes.knows(name) for name in asked.classes):
                raise unknown_class(NO_SUCH)

        try:
            return self._journal.once(asked, check, act)
        except ClassNameError as error:  # whose message may name classes that this tenant does not see
            raise unknown_class(NO_SUCH) from error
        except BundleError as error:
            raise unserved(model.name) from error
        except RefusedError:
            raise
        except PfmError as error:  # a disk that is full, a trace of the class in another file
            log_error("change", error, model=model.name)
            why = f" ({reason})" if (reason := system_reason(error)) else ""
            raise RefusedError(500, "change", f"{UNDONE}{why}; ask again with the same request_id") from error

    def _view(self, model: Shown, tenant: Tenant, asked: Asked) -> View:
        return model.view(tenant, asked.profile)

    def _certify(self, model: Shown, asked: Asked) -> Json:
        """Write and return the certificate.

        Raises:
            RefusedError: it cannot be made; the classes are gone all the same.
        """
        folder = model.served.folder
        try:
            model.served.settle()
            found = certificate.describe_artifact(folder, bundle_content(folder), asked.classes, [])
            if found is None:
                raise BundleError("no ledger records the erasure")
            key, _ = load_key(self._journal.key_file)
            return certificate.write_certificate(
                self._journal.certificate(asked), key, [found], reason=asked.reason, requested_by=asked.requested_by,
                time=_now(),
            )  # fmt: skip
        except PfmError as error:
            log_error("certificate", error)
            raise RefusedError(500, "certificate", UNCERTIFIED) from error


def _sees_all(model: Shown, tenant: Tenant) -> bool:
    return not tenant.is_bound or model.view(tenant).is_whole


def _head(asked: Asked) -> Json:
    return {"request_id": asked.id, "model": asked.model}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
