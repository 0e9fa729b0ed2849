"""What bodies and answers look like, for the OpenAPI page."""

from typing import Any

from pfm_export.service.tensors import OUTPUTS, PARAMETERS

_NAMES = {"type": "array", "items": {"type": "string"}}


def _body(content_type: str, schema: object, example: object = None) -> dict[str, Any]:
    shown = {"schema": schema, **({} if example is None else {"example": example})}
    return {"requestBody": {"required": True, "content": {content_type: shown}}}


INFER = _body(
    "application/json",
    {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "inputs": {"type": "array", "items": {"type": "object"}},
            "outputs": {"type": "array", "items": {"type": "object"}, "description": f"of {', '.join(OUTPUTS)}"},
            "parameters": {"type": "object", "description": f"of {', '.join(PARAMETERS)}"},
        },
    },
    {
        "inputs": [{"name": "pixel_values", "shape": [1, 3, 1, 1], "datatype": "FP32", "data": [0, 0, 0]}],
        "parameters": {"without": ["lymphocyte"]},
    },
)
UPLOAD = _body("application/octet-stream", {"type": "string", "format": "binary"})
CHANGE = _body(
    "application/json",
    {
        "type": "object",
        "required": ["classes"],
        "properties": {
            "classes": _NAMES,
            "request_id": {
                "type": "string",
                "description": "the same id again is the same request, done once",
            },
            "reason": {"type": "string", "description": "for the record"},
            "requested_by": {"type": "string", "description": "for the record"},
            "profile": {"type": "string", "description": "of suspend and restore"},
            "centre_prompts": {
                "type": "boolean",
                "description": "of erase: the prompts that are left are moved to mean zero; some answers change",
            },
        },
    },
    {"classes": ["lymphocyte"], "request_id": "7f3a", "reason": "request 7"},
)
