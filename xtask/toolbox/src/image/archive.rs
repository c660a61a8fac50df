//! An OCI image layout in a tar file: several images, layers stored once.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tar::{Builder, Header};

use super::layer::{Layer, digest};

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
/// Creation time of all images, constant so that digests depend on content only.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// An image with one or more names.
pub struct Image<'a> {
    names: Vec<String>,
    layers: Vec<&'a Layer>,
    config: serde_json::Map<String, Value>,
}

impl<'a> Image<'a> {
    /// Describes an image of these layers, the lowest first; the default PATH, no program to start.
    pub fn new<S: Into<String>>(
        names: impl IntoIterator<Item = S>,
        layers: impl IntoIterator<Item = &'a Layer>,
    ) -> Self {
        let mut config = serde_json::Map::new();
        config.insert("Env".into(), json!(["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]));
        config.insert("WorkingDir".into(), json!("/"));
        Self { names: names.into_iter().map(Into::into).collect(), layers: layers.into_iter().collect(), config }
    }

    /// Sets the program that a container starts, with its first arguments.
    #[must_use]
    pub fn entrypoint<const N: usize>(mut self, words: [&str; N]) -> Self {
        self.config.insert("Entrypoint".into(), json!(words.to_vec()));
        self
    }

    /// Sets the arguments that follow the entrypoint, or replace a missing one.
    #[must_use]
    pub fn command<const N: usize>(mut self, words: [&str; N]) -> Self {
        self.config.insert("Cmd".into(), json!(words.to_vec()));
        self
    }

    /// Sets the user, by name or id, that the program runs as.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        self.config.insert("User".into(), json!(user));
        self
    }

    fn config(&self) -> Value {
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let diffs: Vec<_> = self.layers.iter().map(|layer| format!("sha256:{}", layer.digest)).collect();
        json!({
            "created": CREATED, "architecture": architecture, "os": "linux", "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": diffs},
        })
    }

    fn manifest(&self, config: &[u8]) -> Value {
        let layer = |layer: &&Layer| descriptor(TAR, &layer.digest, layer.size);
        json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &digest(config), config.len() as u64),
            "layers": self.layers.iter().map(layer).collect::<Vec<_>>(),
        })
    }
}

/// Writes the archive. A reader of `path` sees the old file or the complete new one.
pub fn write(path: &Path, images: &[Image]) -> Result<()> {
    let fresh = path.with_extension("new");
    let file = File::create(&fresh).with_context(|| format!("cannot create {}", fresh.display()))?;
    let mut archive = Archive { tar: Builder::new(BufWriter::new(file)), blobs: BTreeSet::new() };
    let index = archive.images(images)?;
    archive.file("index.json", &serde_json::to_vec(&index)?)?;
    archive.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    archive.tar.into_inner()?.flush()?;
    std::fs::rename(&fresh, path).with_context(|| format!("cannot move a file to {}", path.display()))
}

struct Archive<W: Write> {
    tar: Builder<W>,
    blobs: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    /// Writes all blobs and returns their index.
    fn images(&mut self, images: &[Image]) -> Result<Value> {
        let mut entries = Vec::new();
        for image in images {
            for layer in &image.layers {
                self.layer(layer)?;
            }
            let config = serde_json::to_vec(&image.config())?;
            let manifest = serde_json::to_vec(&image.manifest(&config))?;
            self.blob(&config)?;
            self.blob(&manifest)?;
            for name in &image.names {
                let mut entry = descriptor(MANIFEST, &digest(&manifest), manifest.len() as u64);
                let tag = name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
                entry["annotations"] =
                    json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag});
                entries.push(entry);
            }
        }
        Ok(json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}))
    }

    fn layer(&mut self, layer: &Layer) -> Result<()> {
        if self.blobs.insert(layer.digest.clone()) {
            let file = File::open(&layer.path).with_context(|| format!("cannot open {}", layer.path.display()))?;
            let mut header = header(layer.size);
            self.tar.append_data(&mut header, blob_path(&layer.digest), file)?;
        }
        Ok(())
    }

    fn blob(&mut self, bytes: &[u8]) -> Result<()> {
        let digest = digest(bytes);
        if self.blobs.insert(digest.clone()) {
            self.file(&blob_path(&digest), bytes)?;
        }
        Ok(())
    }

    fn file(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        Ok(self.tar.append_data(&mut header(bytes.len() as u64), name, bytes)?)
    }
}

fn blob_path(digest: &str) -> String {
    format!("blobs/sha256/{digest}")
}

fn header(size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(0);
    header
}

fn descriptor(kind: &str, digest: &str, size: u64) -> Value {
    json!({"mediaType": kind, "digest": format!("sha256:{digest}"), "size": size})
}
