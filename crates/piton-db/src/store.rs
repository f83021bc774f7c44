//! Backups in an S3-compatible store: the same files under the same names, what tells of a backup last.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use object_store::aws::{AmazonS3Builder, Checksum};
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt, RetryConfig, WriteMultipart};
use piton_exec::{ExposeSecret, Secret};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::manifest::{self, Manifest, Proved};
use crate::progress::{OnReport, Progress, Report};
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

/// What is in the store of one backup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Whether its manifest is there, and so everything.
    pub whole: bool,
    /// How many objects.
    pub objects: u64,
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
            .with_retry(RetryConfig {
                max_retries: 5,
                retry_timeout: Duration::from_secs(60),
                ..RetryConfig::default()
            });
        if let Some(endpoint) = &place.endpoint {
            builder = builder.with_endpoint(endpoint).with_allow_http(endpoint.starts_with("http://"));
        }
        if let Some((key, secret)) = &place.keys {
            builder = builder
                .with_access_key_id(key.expose_secret())
                .with_secret_access_key(secret.expose_secret());
        }
        let shown = place.to_string();
        let objects = builder.build().map_err(unusable(&shown, "use"))?;
        let folder = Key::from(place.prefix.as_str()).join(app).join(environment);
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
            held.objects += 1;
            held.whole |= name.as_ref() == manifest::FILE && below.next().is_none();
        }
        Ok(held)
    }

    /// Reads the manifest of a backup, and when it was last proved.
    ///
    /// # Errors
    /// [`DbError::NoManifest`] when the backup is not whole, [`DbError::BadManifest`] when its manifest was altered, and
    /// [`DbError::Store`].
    pub async fn read(&self, id: &str) -> Result<(Manifest, Option<Proved>), DbError> {
        let file = Path::new(&self.shown).join(id).join(manifest::FILE);
        let Some(text) = self.bytes(id, manifest::FILE).await? else {
            return Err(DbError::NoManifest { dir: Path::new(&self.shown).join(id) });
        };
        let manifest = Manifest::parse(&text, &file)?;
        let proved = self.bytes(id, manifest::PROVED).await?;
        let proved = proved.and_then(|text| Proved::parse(&text, &manifest));
        Ok((manifest, proved))
    }

    /// Copies a backup from its folder into the store; what is there already of it stays.
    ///
    /// Returns how many bytes went over.
    ///
    /// # Errors
    /// As [`Manifest::read`], and [`DbError::Store`].
    pub async fn put(&self, dir: &Path, id: &str, report: OnReport<'_>) -> Result<u64, DbError> {
        let manifest = Manifest::read(dir)?;
        let there = self.sizes(id).await?;
        let total = manifest.files.len() as u64;
        let mut sent = 0;
        for (number, (name, sum)) in manifest.files.iter().enumerate() {
            report(Report::Progress(Progress {
                doing: "store",
                what: name.clone(),
                done: number as u64,
                total,
            }));
            let key = self.key(id, name);
            // An object is there whole or not at all, and the files of a backup never change.
            if there.get(&key) != Some(&sum.size) {
                self.upload(&dir.join(name), &key).await?;
                sent += sum.size;
            }
        }
        for name in [manifest::FILE, manifest::PROVED] {
            if dir.join(name).exists() {
                self.upload(&dir.join(name), &self.key(id, name)).await?;
            }
        }
        Ok(sent)
    }

    /// Copies a backup from the store into a folder, which is then as the one that it was made in.
    ///
    /// A finished backup in the folder stays as it is; what an unfinished attempt left there is removed first. The files'
    /// checksums are the proof's to compare.
    ///
    /// # Errors
    /// As [`Store::read`]; [`DbError::ForeignFolder`] when the folder holds other files.
    pub async fn get(&self, id: &str, dir: &Path, report: OnReport<'_>) -> Result<u64, DbError> {
        match Manifest::read(dir) {
            Ok(_) => return Ok(0),
            Err(DbError::NoManifest { .. }) => {}
            Err(other) => return Err(other),
        }
        let (manifest, _) = self.read(id).await?;
        files::claim(dir)?;
        let total = manifest.files.len() as u64;
        let mut received = 0;
        for (number, name) in manifest.files.keys().enumerate() {
            report(Report::Progress(Progress {
                doing: "fetch",
                what: name.clone(),
                done: number as u64,
                total,
            }));
            let path = manifest::below(dir, name)?;
            received += self.download(&self.key(id, name), &path).await?;
        }
        for name in [manifest::PROVED, manifest::FILE] {
            if let Some(text) = self.bytes(id, name).await? {
                files::write(&dir.join(name), &text)?;
            }
        }
        Ok(received)
    }

    /// Removes a backup, or what was begun of one, from the store; one that is not there is as good as removed.
    ///
    /// # Errors
    /// [`DbError::Store`].
    pub async fn remove(&self, id: &str) -> Result<(), DbError> {
        let last = [manifest::PROVED, manifest::FILE].map(|name| self.key(id, name));
        let there = self.sizes(id).await?;
        // A removal that was cut off leaves what is still known for a backup, and can be carried on.
        let first = there.keys().filter(|key| !last.contains(key));
        for key in first.chain(last.iter().filter(|key| there.contains_key(key))) {
            match self.objects.delete(key).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(self.failed("remove a backup from")(error)),
            }
        }
        Ok(())
    }

    fn key(&self, id: &str, name: &str) -> Key {
        name.split('/').fold(self.folder.clone().join(id), |key, part| key.join(part))
    }

    async fn sizes(&self, id: &str) -> Result<BTreeMap<Key, u64>, DbError> {
        let folder = self.folder.clone().join(id);
        let objects = self.objects.list(Some(&folder)).map_ok(|object| (object.location, object.size));
        objects.try_collect().await.map_err(self.failed("list"))
    }

    /// Reads a small object; `None` when there is none.
    async fn bytes(&self, id: &str, name: &str) -> Result<Option<Vec<u8>>, DbError> {
        let read = async { self.objects.get(&self.key(id, name)).await?.bytes().await };
        match read.await {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("read")(error)),
        }
    }

    async fn upload(&self, from: &Path, to: &Key) -> Result<(), DbError> {
        let failed = self.failed("write to");
        let mut file = tokio::fs::File::open(from).await?;
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

    async fn download(&self, from: &Key, to: &Path) -> Result<u64, DbError> {
        let failed = self.failed("read");
        if let Some(folder) = to.parent() {
            fs_err::create_dir_all(folder)?;
        }
        let mut file = tokio::fs::File::create_new(to).await?;
        let mut bytes = self.objects.get(from).await.map_err(failed)?.into_stream();
        let mut size = 0;
        while let Some(chunk) = bytes.try_next().await.map_err(failed)? {
            file.write_all(&chunk).await?;
            size += chunk.len() as u64;
        }
        file.sync_all().await?;
        Ok(size)
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
        // It prints its causes itself.
        why: error.to_string(),
        denied: matches!(error, PermissionDenied { .. } | Unauthenticated { .. }),
    }
}
