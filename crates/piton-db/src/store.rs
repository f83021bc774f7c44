//! Backups in an S3-compatible store: the same files under the same names, what tells of a backup last.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use object_store::aws::{AmazonS3Builder, Checksum};
use object_store::path::Path as Key;
use object_store::{ClientOptions, ObjectMeta, ObjectStore, ObjectStoreExt, RetryConfig, WriteMultipart};
use piton_exec::{ExposeSecret, Secret};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::manifest::{self, Damage, Manifest, Proved};
use crate::progress::{OnProgress, Progress};
use crate::{DbError, files};

/// A store's connection, as `piton.toml` has it.
#[derive(Clone, Debug)]
pub struct Place {
    /// The bucket.
    pub bucket: String,
    /// What the names of all objects begin with, without slashes at its ends; may be empty.
    pub prefix: String,
    /// The server's URL; `None` is Amazon's of the region.
    pub endpoint: Option<String>,
    /// The region.
    pub region: String,
    /// The access key and its secret; `None` leaves it to the machine's own role.
    pub keys: Option<(Secret, Secret)>,
}

/// Prints as `s3://bucket/prefix`.
impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "s3://{}", self.bucket)?;
        if self.prefix.is_empty() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

/// The backups of one environment in a store.
#[derive(Debug)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    /// Below which they lie.
    folder: Key,
    /// How people know it.
    shown: String,
}

/// Prints as `s3://bucket/prefix/app/environment`.
impl std::fmt::Display for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown)
    }
}

/// What is in the store of one backup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Whether what says that Piton made it is there, which comes first and goes last.
    pub ours: bool,
    /// Whether its manifest is there, which comes last and goes first.
    pub whole: bool,
    /// How many of its files.
    pub files: u64,
    /// When its last object came, in seconds of the store's clock since 1970.
    pub changed: i64,
}

/// From how many bytes on a file goes in parts, and how long one is.
const PART: u64 = 8 << 20;
/// A store takes ten thousand parts of one file.
const PARTS: u64 = 9_000;
/// How many parts are on their way at once.
const AT_ONCE: usize = 4;

impl Store {
    /// Opens the part of a store that an environment's backups lie in; asks nothing of it yet.
    ///
    /// # Errors
    /// [`DbError::Store`] when the place is not one.
    pub fn open(place: &Place, app: &str, environment: &str) -> Result<Self, DbError> {
        // The client takes the process's own; whoever was first has set the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&place.bucket)
            .with_region(&place.region)
            // The server compares what it got with what was sent, and refuses what differs.
            .with_checksum_algorithm(Checksum::SHA256)
            // Not every store has it, and one at a time is all that is asked for.
            .with_disable_bulk_delete(true)
            // Long enough for a second attempt, and shorter than what a signature holds.
            .with_retry(RetryConfig {
                max_retries: 5,
                retry_timeout: Duration::from_secs(600),
                ..RetryConfig::default()
            });
        // A part takes as long as a slow line needs, more than the client's own 30 s.
        let mut client = ClientOptions::new().with_timeout(Duration::from_secs(180));
        if let Some(endpoint) = &place.endpoint {
            builder = builder.with_endpoint(endpoint);
            client = client.with_allow_http(endpoint.starts_with("http://"));
        }
        builder = builder.with_client_options(client);
        if let Some((key, secret)) = &place.keys {
            builder = builder
                .with_access_key_id(key.expose_secret())
                .with_secret_access_key(secret.expose_secret());
        }
        let shown = format!("{place}/{app}/{environment}");
        let objects = builder.build().map_err(unusable(&shown, "use"))?;
        let folder = Key::from(format!("{}/{app}/{environment}", place.prefix));
        Ok(Self { objects: Arc::new(objects), folder, shown })
    }

    /// Tells what of which backups is there, by their identifiers.
    ///
    /// # Errors
    /// [`DbError::Store`].
    pub async fn list(&self) -> Result<BTreeMap<String, Held>, DbError> {
        let mut held: BTreeMap<String, Held> = BTreeMap::new();
        let mut objects = self.objects.list(Some(&self.folder));
        while let Some(object) = objects.try_next().await.map_err(self.failed("list"))? {
            let mut below = object.location.prefix_match(&self.folder).into_iter().flatten();
            let (Some(id), Some(name)) = (below.next(), below.next()) else { continue };
            let held = held.entry(id.as_ref().to_owned()).or_default();
            held.changed = held.changed.max(object.last_modified.timestamp());
            match (name.as_ref(), below.next()) {
                (files::MARKER, None) => held.ours = true,
                (manifest::FILE, None) => held.whole = true,
                (manifest::PROVED, None) => {}
                _ => held.files += 1,
            }
        }
        Ok(held)
    }

    /// Reads the manifest of a backup, and when it was last proved.
    ///
    /// # Errors
    /// [`DbError::NoManifest`] when the backup is not whole, [`DbError::BadManifest`] when its manifest was altered, and
    /// [`DbError::Store`].
    pub async fn read(&self, id: &str) -> Result<(Manifest, Option<Proved>), DbError> {
        let (manifest, _) = self.manifest(id).await?;
        let proved = self.bytes(id, manifest::PROVED).await?;
        let proved = proved.and_then(|text| Proved::parse(&text, &manifest));
        Ok((manifest, proved))
    }

    /// Reads a manifest, with its text.
    async fn manifest(&self, id: &str) -> Result<(Manifest, Vec<u8>), DbError> {
        let dir = Path::new(&self.shown).join(id);
        let text = self.bytes(id, manifest::FILE).await?;
        let text = text.ok_or_else(|| DbError::NoManifest { dir: dir.clone() })?;
        Ok((Manifest::parse(&text, &dir.join(manifest::FILE))?, text))
    }

    /// Takes back that a backup was proved.
    ///
    /// # Errors
    /// [`DbError::Store`].
    pub async fn not_proved(&self, id: &str) -> Result<(), DbError> {
        self.delete(&self.key(id, manifest::PROVED)?).await
    }

    /// Copies a backup from its folder into the store; what is there already of it stays, unless its proof was taken back.
    ///
    /// Returns how many bytes went over.
    ///
    /// # Errors
    /// As [`Manifest::read`], and [`DbError::Store`].
    pub async fn put(&self, dir: &Path, id: &str, progress: OnProgress<'_>) -> Result<u64, DbError> {
        let manifest = Manifest::read(dir)?;
        let there = self.objects_of(id).await?;
        let (proved, told) = (self.key(id, manifest::PROVED)?, self.key(id, manifest::FILE)?);
        // What was written to after the manifest, which comes last, may have been altered at equal length; so may anything in a
        // copy that is whole and not proved.
        let trusted = |object: &ObjectMeta| match there.get(&told) {
            Some(told) => there.contains_key(&proved) && object.last_modified <= told.last_modified,
            None => true,
        };
        let marker = self.key(id, files::MARKER)?;
        let marked = self.objects.put(&marker, files::MARKER_TEXT.into()).await;
        marked.map_err(self.failed("write to"))?;
        let total = manifest.files.len() as u64;
        let mut sent = 0;
        for (number, (name, sum)) in manifest.files.iter().enumerate() {
            progress(Progress { doing: "store", what: name.clone(), done: number as u64, total });
            let key = self.key(id, name)?;
            // An object is there whole or not at all, and the files of a backup never change.
            if !there.get(&key).is_some_and(|object| object.size == sum.size && trusted(object)) {
                self.upload(&dir.join(name), &key).await?;
                sent += sum.size;
            }
        }
        if dir.join(manifest::PROVED).exists() {
            self.upload(&dir.join(manifest::PROVED), &proved).await?;
        }
        self.upload(&dir.join(manifest::FILE), &told).await?;
        Ok(sent)
    }

    /// Copies a backup from the store into a folder, which is then as the one that it was made in.
    ///
    /// A finished backup in the folder stays as it is; what an unfinished attempt left there is removed first. Every file is
    /// compared with its checksum before the folder counts as a backup.
    ///
    /// # Errors
    /// As [`Store::read`]; [`DbError::Damaged`] when a file was altered; [`DbError::ForeignFolder`] when the folder holds others.
    pub async fn get(&self, id: &str, dir: &Path, progress: OnProgress<'_>) -> Result<u64, DbError> {
        match Manifest::read(dir) {
            Ok(_) => return Ok(0),
            Err(DbError::NoManifest { .. }) => {}
            Err(other) => return Err(other),
        }
        let (manifest, text) = self.manifest(id).await?;
        let there = self.objects_of(id).await?;
        files::claim(dir)?;
        let total = manifest.files.len() as u64;
        for (number, (name, wanted)) in manifest.files.iter().enumerate() {
            progress(Progress { doing: "fetch", what: name.clone(), done: number as u64, total });
            let (path, key) = (manifest::below(dir, name)?, self.key(id, name)?);
            let altered = || Damage::Altered(name.clone(), wanted.table.clone());
            let damaged = |damage| DbError::Damaged { place: format!("{}/{id}", self.shown), damage };
            match there.get(&key).map(|object| object.size) {
                None => return Err(damaged(Damage::Missing(name.clone(), wanted.table.clone()))),
                Some(size) if size != wanted.size => return Err(damaged(altered())),
                Some(_) => {}
            }
            let found = self.download(&key, &path, wanted.size).await?;
            if found.to_hex().as_str() != wanted.blake3 {
                return Err(damaged(altered()));
            }
        }
        files::sync_all_dirs(dir)?;
        if let Some(proved) = self.bytes(id, manifest::PROVED).await? {
            files::write(&dir.join(manifest::PROVED), &proved)?;
        }
        files::write(&dir.join(manifest::FILE), &text)?;
        Ok(manifest.total_bytes())
    }

    /// Removes a backup, or what was begun of one, from the store; one that is not there is as good as removed.
    ///
    /// # Errors
    /// [`DbError::Store`].
    pub async fn remove(&self, id: &str) -> Result<(), DbError> {
        // First what tells of it, for half of a backup is none; last what says that the rest is ours to remove.
        let first = [self.key(id, manifest::FILE)?, self.key(id, manifest::PROVED)?];
        let last = self.key(id, files::MARKER)?;
        let there = self.objects_of(id).await?;
        let rest = there.keys().filter(|key| !first.contains(key) && **key != last);
        for key in first.iter().chain(rest).chain([&last]).filter(|key| there.contains_key(key)) {
            self.delete(key).await?;
        }
        Ok(())
    }

    async fn delete(&self, key: &Key) -> Result<(), DbError> {
        match self.objects.delete(key).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed("remove a backup from")(error)),
        }
    }

    fn key(&self, id: &str, name: &str) -> Result<Key, DbError> {
        let key = Key::parse(format!("{}/{id}/{name}", self.folder));
        key.map_err(|error| self.failed("name a file in")(error.into()))
    }

    async fn objects_of(&self, id: &str) -> Result<BTreeMap<Key, ObjectMeta>, DbError> {
        let folder = self.folder.clone().join(id);
        let objects = self.objects.list(Some(&folder)).map_ok(|object| (object.location.clone(), object));
        objects.try_collect().await.map_err(self.failed("list"))
    }

    /// Reads a small object; `None` when there is none.
    async fn bytes(&self, id: &str, name: &str) -> Result<Option<Vec<u8>>, DbError> {
        let key = self.key(id, name)?;
        let read = async { self.objects.get(&key).await?.bytes().await };
        match read.await {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("read")(error)),
        }
    }

    async fn upload(&self, from: &Path, to: &Key) -> Result<(), DbError> {
        let failed = self.failed("write to");
        let mut file = tokio::fs::File::from_std(fs_err::File::open(from)?.into_parts().0);
        let size = file.metadata().await?.len();
        if size <= PART {
            let mut text = Vec::new();
            file.read_to_end(&mut text).await?;
            return self.objects.put(to, text.into()).await.map(drop).map_err(failed);
        }
        let part = usize::try_from(PART.max(size / PARTS)).unwrap_or(usize::MAX);
        let upload = self.objects.put_multipart(to).await.map_err(failed)?;
        let mut writer = WriteMultipart::new_with_chunk_size(upload, part);
        match send(&mut file, &mut writer).await {
            Ok(()) => writer.finish().await.map(drop).map_err(failed),
            Err(error) => {
                // The parts that went over would be paid for; the first error is the one to tell.
                let _ = writer.abort().await;
                Err(match error {
                    Cut::Reading(error) => error.into(),
                    Cut::Sending(error) => failed(error),
                })
            }
        }
    }

    /// Downloads an object of this size in parts, each with its own attempts; returns the checksum of what came.
    async fn download(&self, from: &Key, to: &Path, size: u64) -> Result<blake3::Hash, DbError> {
        if let Some(folder) = to.parent() {
            fs_err::create_dir_all(folder)?;
        }
        let mut file = tokio::fs::File::from_std(fs_err::File::create_new(to)?.into_parts().0);
        let mut hasher = blake3::Hasher::new();
        let mut at = 0;
        while at < size {
            let part = at..size.min(at + PART);
            let bytes = self.objects.get_range(from, part.clone()).await.map_err(self.failed("read"))?;
            hasher.update(&bytes);
            file.write_all(&bytes).await?;
            at = part.end;
        }
        // What a last write has met is told by a flush alone.
        file.flush().await?;
        file.sync_all().await?;
        Ok(hasher.finalize())
    }

    fn failed(&self, doing: &'static str) -> impl Fn(object_store::Error) -> DbError + Copy {
        unusable(&self.shown, doing)
    }
}

/// What ended the sending of a file.
enum Cut {
    Reading(std::io::Error),
    Sending(object_store::Error),
}

async fn send(file: &mut tokio::fs::File, writer: &mut WriteMultipart) -> Result<(), Cut> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        writer.wait_for_capacity(AT_ONCE).await.map_err(Cut::Sending)?;
        match file.read(&mut buffer).await.map_err(Cut::Reading)? {
            0 => return Ok(()),
            read => writer.write(&buffer[..read]),
        }
    }
}

fn unusable(place: &str, doing: &'static str) -> impl Fn(object_store::Error) -> DbError + Copy {
    use object_store::Error::{PermissionDenied, Unauthenticated};
    move |error| DbError::Store {
        doing,
        place: place.to_owned(),
        why: said(&error.to_string()),
        denied: matches!(error, PermissionDenied { .. } | Unauthenticated { .. }),
    }
}

/// Returns what a store said, in a line: of its XML the code and the message alone, for it repeats the request, keys and all.
fn said(text: &str) -> String {
    let Some((before, xml)) = text.split_once('<') else { return text.to_owned() };
    let tag = |name: &str| xml.split_once(&format!("<{name}>"))?.1.split_once("</").map(|(value, _)| value);
    let words = [tag("Code"), tag("Message")].into_iter().flatten();
    words.fold(before.trim_end_matches([' ', ':']).to_owned(), |line, word| format!("{line}: {word}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_a_store_says_the_request_is_left_out() {
        let answer = "Server returned 403 Forbidden: <?xml version=\"1.0\"?><Error><Code>AccessDenied</Code>\
                      <Message>No.</Message><AWSAccessKeyId>AKIA</AWSAccessKeyId></Error>";
        assert_eq!(said(answer), "Server returned 403 Forbidden: AccessDenied: No.");
        assert_eq!(said("connection refused"), "connection refused");
    }
}
