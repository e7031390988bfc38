//! The contract as a JSON Schema, made from the record types.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings, json_schema};
use serde_json::{Value, json};

use super::{
    ClosedBody, CoverageBody, Envelope, FindingBody, HeartbeatBody, LossBody, Record, RiskBody, SCHEMA, SummaryBody,
};

/// The JSON Schema (draft 2020-12) of one record, with the field descriptions of the types. Fields are only added within a major version,
/// so it allows unknown ones.
pub fn schema() -> Value {
    let mut schema = SchemaSettings::draft2020_12().for_serialize().into_generator().into_root_schema_for::<Record>();
    schema.insert("title".to_owned(), json!(format!("A record of {SCHEMA}")));
    schema.to_value()
}

impl JsonSchema for Record {
    fn schema_name() -> Cow<'static, str> {
        "Record".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let bodies = [
            ("finding", generator.subschema_for::<FindingBody>()),
            ("connection", generator.subschema_for::<ClosedBody>()),
            ("coverage", generator.subschema_for::<CoverageBody>()),
            ("heartbeat", generator.subschema_for::<HeartbeatBody>()),
            ("loss", generator.subschema_for::<LossBody>()),
            ("risk", generator.subschema_for::<RiskBody>()),
            ("summary", generator.subschema_for::<SummaryBody>()),
        ];
        let one_of: Vec<_> = bodies
            .into_iter()
            .map(|(kind, body)| json!({ "properties": { "type": { "const": kind } }, "allOf": [body] }))
            .collect();
        json_schema!({ "allOf": [generator.subschema_for::<Envelope>()], "oneOf": one_of })
    }
}

/// The values of a field that may also be `null`.
pub(super) fn one_of_or_null<const COUNT: usize>(names: [&str; COUNT]) -> Vec<Option<&str>> {
    names.into_iter().map(Some).chain([None]).collect()
}
