//! Schemas of Kubernetes' own types, as far as our resources hold them.
//!
//! They are written here because the derive of the foreign crate would pull its whole schema
//! in; they must say what the API server says about the same types.

use schemars::{Schema, SchemaGenerator, json_schema};

/// An RFC 3339 time.
pub(crate) fn time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "format": "date-time", "maxLength": 64 })
}

/// A list of standard conditions.
pub(crate) fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "items": {
            "type": "object",
            "required": ["type", "status", "reason", "message", "lastTransitionTime"],
            "properties": {
                "type": { "type": "string", "maxLength": 316, "description": "Type of the condition." },
                "status": { "type": "string", "enum": ["True", "False", "Unknown"], "description": "True, False or Unknown." },
                "reason": { "type": "string", "minLength": 1, "maxLength": 1024, "description": "Why, in one word." },
                "message": { "type": "string", "maxLength": 32768, "description": "Why, and the next step." },
                "observedGeneration": { "type": "integer", "format": "int64", "minimum": 0, "description": "The generation of the spec it speaks of." },
                "lastTransitionTime": { "type": "string", "format": "date-time", "description": "When the status last changed." }
            }
        }
    })
}
