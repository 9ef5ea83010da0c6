//! Parquet without Arrow: only the needed leaf columns are decoded, a batch of rows at a time.
//!
//! The decoder is given untrusted bytes and is known to panic on some damaged files, so every call into it runs under
//! `catch_unwind`; after a panic its state is thrown away and the file is reported as damaged. Timestamps, dates and the
//! old 96-bit form carry their unit in the schema, plain numbers and texts are judged as in any other format.

use std::cell::Cell;
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Once;

use parquet::basic::{ConvertedType, LogicalType, TimeUnit, Type};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, DataType, FixedLenByteArray, Int96};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::ColumnDescriptor;

use crate::config::Data;
use crate::error::{Code, Error, Result};

use super::delimited::float;
use super::layout::{Evidence, Found, Layout};
use super::roles::{self, Column};
use super::rows::{Cells, Class, Parsed, Rows, Span};
use super::sniff::{Form, Sample, found};
use super::time::{Unit, missing};
use super::{Job, Progress, compress};

/// Rows decoded at a time.
const BATCH: usize = 1 << 14;
/// Text of one batch; ids of this size are damage, not ids.
const BATCH_BYTES: usize = 1 << 30;

thread_local! {
    /// This thread is inside the decoder: its panics are reported as errors, not on the terminal.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs the decoder; a panic becomes an error like any other.
fn guarded<T>(path: &Path, decode: impl FnOnce() -> ParquetResult<T>) -> Result<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                before(info);
            }
        }));
    });
    GUARDED.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(decode));
    GUARDED.set(false);
    let why = match outcome {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the decoder met data that contradicts itself".into(),
    };
    Err(Error::new(Code::D0109, format!("{} cannot be read as Parquet", path.display()))
        .note(why)
        .help("write it again with snappy, zstd or no compression, or export it as CSV"))
}

fn open(path: &Path) -> Result<SerializedFileReader<std::fs::File>> {
    let (file, _) = compress::open(path)?;
    guarded(path, || SerializedFileReader::new(file))
}

/// One field.
enum Field {
    Null,
    Whole(i64),
    /// An unsigned number that is no `i64`.
    Large(u64),
    Real(f64),
    Bytes(ByteArray),
}

impl Field {
    /// The text of an id, a category or a weight; a whole number never shows a decimal point.
    fn text(&self, out: &mut String) -> Option<()> {
        out.clear();
        match self {
            Field::Null => return None,
            Field::Whole(value) => write!(out, "{value}").ok()?,
            Field::Large(value) => write!(out, "{value}").ok()?,
            Field::Real(value) if value.is_nan() => return None,
            Field::Real(value) => write!(out, "{value}").ok()?,
            Field::Bytes(_) => {}
        }
        Some(())
    }
    /// The bytes of the field, using `text` as store; `None` for a null.
    fn bytes<'a>(&'a self, text: &'a mut String) -> Option<&'a [u8]> {
        self.text(text)?;
        Some(if let Field::Bytes(bytes) = self { bytes.data() } else { text.as_bytes() })
    }
}

/// Reads up to `count` rows of a typed column.
fn typed<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    count: usize,
    levels: i16,
    field: impl Fn(T::T) -> Field,
) -> ParquetResult<Vec<Field>> {
    let (mut present, mut values) = (vec![], vec![]);
    let (rows, ..) = reader.read_records(count, Some(&mut present), None, &mut values)?;
    let mut values = values.into_iter().map(field);
    if levels == 0 {
        return Ok(values.collect());
    }
    let missing = || ParquetError::General("fewer values than the levels say".into());
    (0..rows)
        .map(|row| match present.get(row) {
            Some(&level) if level == levels => values.next().ok_or_else(missing),
            Some(_) => Ok(Field::Null),
            None => Err(missing()),
        })
        .collect()
}

/// Up to `count` fields of a column that `column` describes.
fn fields(reader: &mut ColumnReader, count: usize, column: &ColumnDescriptor) -> ParquetResult<Vec<Field>> {
    let (levels, unsigned) = (column.max_def_level(), unsigned(column));
    match reader {
        ColumnReader::BoolColumnReader(r) => typed(r, count, levels, |v| Field::Whole(v as i64)),
        ColumnReader::Int32ColumnReader(r) if unsigned => typed(r, count, levels, |v| Field::Whole(i64::from(v as u32))),
        ColumnReader::Int64ColumnReader(r) if unsigned => {
            typed(r, count, levels, |v| if v < 0 { Field::Large(v as u64) } else { Field::Whole(v) })
        }
        ColumnReader::Int32ColumnReader(r) => typed(r, count, levels, |v| Field::Whole(v as i64)),
        ColumnReader::Int64ColumnReader(r) => typed(r, count, levels, Field::Whole),
        ColumnReader::Int96ColumnReader(r) => typed(r, count, levels, |v: Int96| Field::Whole(v.to_micros())),
        ColumnReader::FloatColumnReader(r) => typed(r, count, levels, |v| Field::Real(v as f64)),
        ColumnReader::DoubleColumnReader(r) => typed(r, count, levels, Field::Real),
        ColumnReader::ByteArrayColumnReader(r) => typed(r, count, levels, Field::Bytes),
        ColumnReader::FixedLenByteArrayColumnReader(r) => {
            typed(r, count, levels, |v: FixedLenByteArray| Field::Bytes(ByteArray::from(v.data().to_vec())))
        }
    }
}

/// Whether the schema takes the bits of a column's whole numbers for unsigned ones.
fn unsigned(column: &ColumnDescriptor) -> bool {
    use ConvertedType::{UINT_8, UINT_16, UINT_32, UINT_64};
    match column.logical_type_ref() {
        Some(LogicalType::Integer(kind)) => !kind.is_signed,
        _ => matches!(column.converted_type(), UINT_8 | UINT_16 | UINT_32 | UINT_64),
    }
}

/// The unit the schema gives a column of times.
fn schema_unit(column: &ColumnDescriptor) -> Option<Unit> {
    match column.logical_type_ref() {
        Some(LogicalType::Timestamp(time)) => {
            return Some(match time.unit {
                TimeUnit::MILLIS => Unit::Ms,
                TimeUnit::MICROS => Unit::Us,
                TimeUnit::NANOS => Unit::Ns,
            });
        }
        Some(LogicalType::Date) => return Some(Unit::Days),
        _ => {}
    }
    match (column.converted_type(), column.physical_type()) {
        (ConvertedType::TIMESTAMP_MILLIS, _) => Some(Unit::Ms),
        (ConvertedType::TIMESTAMP_MICROS, _) => Some(Unit::Us),
        (ConvertedType::DATE, _) => Some(Unit::Days),
        (_, Type::INT96) => Some(Unit::Us),
        _ => None,
    }
}

pub fn sniff(sample: &Sample, config: &Data) -> Result<Option<Found>> {
    if !sample.text.starts_with(b"PAR1") && config.format != "parquet" {
        return Ok(None);
    }
    let path = &sample.path;
    let file = open(path)?;
    let schema = guarded(path, || Ok(file.metadata().file_metadata().schema_descr_ptr()))?;
    // Lists hold several values per row and can play no role; their leaves keep their place so that numbers stay true.
    let names: Vec<String> =
        schema.columns().iter().map(|c| if c.max_rep_level() > 0 { String::new() } else { c.path().parts().join(".") }).collect();
    let mut columns = vec![];
    for (i, name) in names.iter().enumerate() {
        let usable = !name.is_empty() && file.num_row_groups() > 0;
        let values = if usable {
            guarded(path, || fields(&mut file.get_row_group(0)?.get_column_reader(i)?, 2000, &schema.column(i)))?
        } else {
            vec![]
        };
        let mut text = String::new();
        let values = values.iter().map(|v| v.bytes(&mut text).unwrap_or_default().to_vec()).collect();
        columns.push(Column { name: name.clone(), values, unit: schema_unit(&schema.column(i)) });
    }
    let roles = roles::assign(path, columns, true, config)?;
    let form = Form { delimiter: String::new(), quoted: false, header: false };
    let groups = file.num_row_groups();
    let because = format!("{groups} row groups, {} leaf columns", names.len());
    let evidence = vec![Evidence::new("records", "column chunks", because, 1.0)];
    Ok(Some(found("parquet", sample, form, names, roles, evidence)))
}

/// Rows of one batch; row numbers stand in for lines.
fn parse(layout: &Layout, columns: &[(usize, Vec<Field>)], count: usize) -> Parsed {
    let mut parsed = Parsed::new(layout);
    parsed.lines = count as u64;
    let of = |wanted: usize| columns.iter().find(|(column, _)| *column == wanted).map(|(_, fields)| &fields[..]);
    let (Some(users), Some(items)) = (of(layout.user), of(layout.item)) else { return parsed };
    let times = layout.time.and_then(of).zip(layout.time_rule);
    let weights = layout.weight.and_then(of);
    let context: Vec<Option<&[Field]>> = layout.context.iter().map(|c| of(c.column)).collect();
    let (mut one, mut two) = (String::new(), String::new());
    'rows: for row in 0..count {
        let (Some(user), Some(item)) = (users[row].bytes(&mut one), items[row].bytes(&mut two)) else {
            parsed.reject(Class::MissingField, row as u32, Span::default(), Span::default());
            continue;
        };
        if user.is_empty() || item.is_empty() {
            parsed.reject(Class::EmptyId, row as u32, Span::default(), Span::default());
            continue;
        }
        let mut text = String::new();
        let mut time = 0;
        if let Some((fields, rule)) = times {
            let micros = match &fields[row] {
                Field::Whole(value) => rule.scaled(*value),
                field => rule.micros(field.bytes(&mut text).unwrap_or_default()),
            };
            match micros {
                Ok(micros) => time = micros,
                Err(class) => {
                    let shown = fields[row].bytes(&mut text).unwrap_or_default();
                    let span = parsed.keep(0, shown);
                    parsed.reject(class, row as u32, span, span);
                    continue;
                }
            }
        }
        let number = |field: &Field, text: &mut String| float(field.bytes(text).unwrap_or_default());
        let mut weight = 0.0;
        if let Some(fields) = weights {
            match layout.weight_of(fields[row].bytes(&mut text).unwrap_or_default()) {
                Some(value) => weight = value,
                None => {
                    parsed.reject(Class::BadWeight, row as u32, Span::default(), Span::default());
                    continue;
                }
            }
        }
        for (fields, cells) in context.iter().zip(&parsed.context) {
            if let (Some(fields), Cells::Numbers(_)) = (fields, cells)
                && !missing(fields[row].bytes(&mut text).unwrap_or_default())
                && number(&fields[row], &mut text).is_none()
            {
                parsed.reject(Class::BadContext, row as u32, Span::default(), Span::default());
                continue 'rows;
            }
        }
        let user = parsed.keep(0, user);
        let item = parsed.keep(0, item);
        parsed.users.push(user);
        parsed.items.push(item);
        if times.is_some() {
            parsed.times.push(time);
        }
        if weights.is_some() {
            parsed.weights.push(weight);
        }
        for (i, fields) in context.iter().enumerate() {
            let Some(fields) = fields else { continue };
            let span = parsed.keep(0, fields[row].bytes(&mut text).unwrap_or_default());
            let value = number(&fields[row], &mut text).unwrap_or(f32::NAN);
            match &mut parsed.context[i] {
                Cells::Categories(spans) => spans.push(span),
                Cells::Numbers(values) => values.push(value),
            }
        }
    }
    parsed
}

pub fn read(job: &Job, rows: &mut Rows, progress: &mut dyn FnMut(Progress)) -> Result<()> {
    let (path, layout) = (job.path, job.layout);
    let total = compress::open(path)?.1;
    let file = open(path)?;
    let mut needed = vec![layout.user, layout.item];
    needed.extend(layout.time.iter().chain(&layout.weight).copied().chain(layout.context.iter().map(|c| c.column)));
    let groups = file.num_row_groups();
    let mut first = 1u64;
    for group in 0..groups {
        let mut readers = guarded(path, || {
            let group = file.get_row_group(group)?;
            let schema = group.metadata().schema_descr_ptr();
            needed
                .iter()
                .map(|&i| {
                    if i >= schema.num_columns() || schema.column(i).max_rep_level() > 0 {
                        return Err(ParquetError::General(format!("column {} changed since the file was looked at", i + 1)));
                    }
                    Ok((i, schema.column(i), group.get_column_reader(i)?))
                })
                .collect::<ParquetResult<Vec<_>>>()
        })?;
        loop {
            let columns = guarded(path, || {
                readers
                    .iter_mut()
                    .map(|(number, column, reader)| Ok((*number, fields(reader, BATCH, column)?)))
                    .collect::<ParquetResult<Vec<_>>>()
            })?;
            let count = columns.first().map_or(0, |(_, fields)| fields.len());
            let bytes = |field: &Field| if let Field::Bytes(bytes) = field { bytes.len() } else { 0 };
            let size: usize = columns.iter().flat_map(|(_, fields)| fields.iter().map(bytes)).sum();
            if size > BATCH_BYTES {
                return Err(Error::new(Code::D0109, format!("{}: {count} rows hold {size} bytes of ids", path.display()))
                    .at(format!("row {first}"))
                    .help("check that the user and item columns hold ids"));
            }
            if columns.iter().any(|(_, fields)| fields.len() != count) {
                return Err(Error::new(Code::D0109, format!("{}: columns differ in length", path.display()))
                    .at(format!("row group {}", group + 1))
                    .help("write the file again"));
            }
            if count == 0 {
                break;
            }
            rows.take(&[], &parse(layout, &columns, count), first)?;
            first += count as u64;
            progress(Progress { bytes: total * group as u64 / groups.max(1) as u64, total, rows: rows.len() });
        }
    }
    progress(Progress { bytes: total, total, rows: rows.len() });
    Ok(())
}
