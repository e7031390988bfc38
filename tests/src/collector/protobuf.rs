//! As much of protobuf's wire format as log records need (protobuf.dev/programming-guides/encoding).

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

/// A log record with what it shares with others.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogRecord {
    /// `time_unix_nano`.
    pub time_unix_nano: u64,
    /// `observed_time_unix_nano`.
    pub observed_time_unix_nano: u64,
    /// `severity_number`.
    pub severity_number: u64,
    /// `severity_text`.
    pub severity_text: String,
    /// `event_name`.
    pub event_name: String,
    /// `body`.
    pub body: Value,
    /// `attributes`.
    pub attributes: BTreeMap<String, Value>,
    /// The attributes of its resource.
    pub resource: BTreeMap<String, Value>,
    /// Name and version of its instrumentation scope.
    pub scope: (String, String),
}

/// A value on the wire.
#[derive(Clone, Copy, Debug)]
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
}

impl<'a> Wire<'a> {
    fn bytes(self) -> Result<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            other => bail!("{other:?} where bytes should be"),
        }
    }

    fn text(self) -> Result<String> {
        Ok(std::str::from_utf8(self.bytes()?)?.to_owned())
    }

    fn number(self) -> Result<u64> {
        match self {
            Self::Varint(number) | Self::Fixed64(number) => Ok(number),
            Self::Bytes(_) => bail!("bytes where a number should be"),
        }
    }
}

fn varint(bytes: &mut &[u8]) -> Result<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().context("a number is cut off")?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    bail!("a number of more than 64 bits")
}

/// The fields of a message, in order.
fn fields(mut bytes: &[u8]) -> Result<Vec<(u64, Wire<'_>)>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let value = match tag & 7 {
            0 => Wire::Varint(varint(&mut bytes)?),
            1 => {
                let (number, rest) = bytes.split_first_chunk().context("a number is cut off")?;
                bytes = rest;
                Wire::Fixed64(u64::from_le_bytes(*number))
            }
            2 => {
                let length = usize::try_from(varint(&mut bytes)?)?;
                let (value, rest) = bytes.split_at_checked(length).context("a field is cut off")?;
                bytes = rest;
                Wire::Bytes(value)
            }
            other => bail!("wire type {other}"),
        };
        fields.push((tag >> 3, value));
    }
    Ok(fields)
}

/// The log records in an `ExportLogsServiceRequest`.
pub(super) fn logs(request: &[u8]) -> Result<Vec<LogRecord>> {
    let mut records = Vec::new();
    for (number, resource_logs) in fields(request)? {
        ensure!(number == 1, "field {number} of a request");
        let mut shared = LogRecord::default();
        for (number, value) in fields(resource_logs.bytes()?)? {
            match number {
                1 => shared.resource = attributes(value.bytes()?, 1)?,
                2 => records.extend(scope_logs(value.bytes()?, &mut shared)?),
                other => bail!("field {other} of resource logs"),
            }
        }
    }
    Ok(records)
}

fn scope_logs(bytes: &[u8], shared: &mut LogRecord) -> Result<Vec<LogRecord>> {
    let mut records = Vec::new();
    for (number, value) in fields(bytes)? {
        match number {
            1 => {
                for (number, value) in fields(value.bytes()?)? {
                    match number {
                        1 => shared.scope.0 = value.text()?,
                        2 => shared.scope.1 = value.text()?,
                        other => bail!("field {other} of a scope"),
                    }
                }
            }
            2 => records.push(log_record(value.bytes()?, shared.clone())?),
            other => bail!("field {other} of scope logs"),
        }
    }
    Ok(records)
}

fn log_record(bytes: &[u8], mut record: LogRecord) -> Result<LogRecord> {
    for (number, value) in fields(bytes)? {
        match number {
            1 => record.time_unix_nano = value.number()?,
            2 => record.severity_number = value.number()?,
            3 => record.severity_text = value.text()?,
            5 => record.body = any_value(value.bytes()?)?,
            6 => {
                let (name, value) = key_value(value.bytes()?)?;
                ensure!(record.attributes.insert(name.clone(), value).is_none(), "{name} comes twice");
            }
            11 => record.observed_time_unix_nano = value.number()?,
            12 => record.event_name = value.text()?,
            other => bail!("field {other} of a log record"),
        }
    }
    Ok(record)
}

/// The `KeyValue`s that are this field of a message.
fn attributes<C: FromIterator<(String, Value)>>(bytes: &[u8], wanted: u64) -> Result<C> {
    let of = fields(bytes)?.into_iter().filter(|(number, _)| *number == wanted);
    of.map(|(_, value)| key_value(value.bytes()?)).collect()
}

fn key_value(bytes: &[u8]) -> Result<(String, Value)> {
    let (mut key, mut value) = (String::new(), Value::Null);
    for (number, field) in fields(bytes)? {
        match number {
            1 => key = field.text()?,
            2 => value = any_value(field.bytes()?)?,
            other => bail!("field {other} of an attribute"),
        }
    }
    Ok((key, value))
}

fn any_value(bytes: &[u8]) -> Result<Value> {
    let fields = fields(bytes)?;
    let [(number, value)] = fields.as_slice() else { bail!("{} values in one", fields.len()) };
    Ok(match number {
        1 => value.text()?.into(),
        2 => (value.number()? != 0).into(),
        3 => value.number()?.cast_signed().into(),
        4 => f64::from_bits(value.number()?).into(),
        5 => {
            let values = self::fields(value.bytes()?)?.into_iter();
            values.map(|(_, value)| any_value(value.bytes()?)).collect::<Result<Value>>()?
        }
        6 => Value::Object(attributes(value.bytes()?, 1)?),
        other => bail!("field {other} of a value"),
    })
}

/// An `ExportLogsServiceResponse` that says that some were not taken, and why: both shorter than 128, so that each length is a byte.
pub(super) fn partial_success(rejected: u8, why: &str) -> Vec<u8> {
    let length = |bytes: &[u8]| u8::try_from(bytes.len()).unwrap_or(0) & 0x7f;
    let partial = [&[0x08, rejected & 0x7f, 0x12, length(why.as_bytes())], why.as_bytes()].concat();
    [&[0x0a, length(&partial)], partial.as_slice()].concat()
}
