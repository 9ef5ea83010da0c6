//! Recommendation lists as Parquet: `user_id`, `item_id` (byte arrays, marked as strings when all names are UTF-8),
//! `score` (float), `rank` (int32); all required, Snappy, dictionaries on. Written column by column without Arrow.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use parquet::basic::{Compression, LogicalType, Repetition, Type as Physical};
use parquet::data_type::{ByteArray, ByteArrayType, FloatType, Int32Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::Type;

use crate::error::{Code, Error, Result};
use crate::eval::lists::ListWriter;

/// Entries held back and written as one row group.
const GROUP: usize = 1 << 18;

pub struct ParquetLists<W: Write + Send> {
    /// None once finished.
    to: Option<SerializedFileWriter<W>>,
    path: PathBuf,
    users: Vec<ByteArray>,
    items: Vec<ByteArray>,
    scores: Vec<f32>,
    ranks: Vec<i32>,
}

impl<W: Write + Send> ParquetLists<W> {
    /// `text`: all user and item names are UTF-8.
    pub fn new(to: W, path: impl Into<PathBuf>, text: bool) -> Result<ParquetLists<W>> {
        let path = path.into();
        let id = |name| {
            let column = Type::primitive_type_builder(name, Physical::BYTE_ARRAY).with_repetition(Repetition::REQUIRED);
            column.with_logical_type(text.then_some(LogicalType::String)).build()
        };
        let number = |name, physical| Type::primitive_type_builder(name, physical).with_repetition(Repetition::REQUIRED).build();
        let open = || {
            let columns = [id("user_id")?, id("item_id")?, number("score", Physical::FLOAT)?, number("rank", Physical::INT32)?];
            let schema = Type::group_type_builder("recommendations").with_fields(columns.map(Arc::new).to_vec()).build()?;
            let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
            SerializedFileWriter::new(to, Arc::new(schema), Arc::new(properties))
        };
        let to = open().map_err(|e| failed(&path, e))?;
        Ok(ParquetLists { to: Some(to), path, users: vec![], items: vec![], scores: vec![], ranks: vec![] })
    }

    fn write_group(&mut self) -> std::result::Result<(), ParquetError> {
        let Some(to) = self.to.as_mut().filter(|_| !self.ranks.is_empty()) else { return Ok(()) };
        let mut group = to.next_row_group()?;
        let mut place = 0;
        while let Some(mut column) = group.next_column()? {
            match place {
                0 => column.typed::<ByteArrayType>().write_batch(&self.users, None, None)?,
                1 => column.typed::<ByteArrayType>().write_batch(&self.items, None, None)?,
                2 => column.typed::<FloatType>().write_batch(&self.scores, None, None)?,
                _ => column.typed::<Int32Type>().write_batch(&self.ranks, None, None)?,
            };
            column.close()?;
            place += 1;
        }
        group.close()?;
        self.users.clear();
        self.items.clear();
        self.scores.clear();
        self.ranks.clear();
        Ok(())
    }
}

fn failed(path: &std::path::Path, error: ParquetError) -> Error {
    if let ParquetError::External(inner) = &error
        && let Some(io) = inner.downcast_ref::<std::io::Error>()
    {
        return Error::io("writing", path, io);
    }
    Error::new(Code::F0801, format!("writing {}: {error}", path.display()))
}

impl<W: Write + Send> ListWriter for ParquetLists<W> {
    fn entry(&mut self, user: &[u8], item: &[u8], score: f32, rank: u32) -> Result<()> {
        // The entries of one list share the bytes of their user.
        let shared = self.users.last().filter(|last| last.data() == user).cloned();
        self.users.push(shared.unwrap_or_else(|| ByteArray::from(user.to_vec())));
        self.items.push(ByteArray::from(item.to_vec()));
        self.scores.push(score);
        self.ranks.push(rank as i32);
        if self.ranks.len() == GROUP {
            self.write_group().map_err(|e| failed(&self.path, e))?;
        }
        Ok(())
    }
    fn finish(&mut self) -> Result<()> {
        self.write_group().map_err(|e| failed(&self.path, e))?;
        match self.to.take() {
            Some(mut to) => to.finish().map(|_| ()).map_err(|e| failed(&self.path, e)),
            None => Ok(()),
        }
    }
}
