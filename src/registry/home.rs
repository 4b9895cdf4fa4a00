//! The registry's folder: what `init` makes, and what everything else opens.

use crate::audit::Audit;
use crate::certificates::{self, CertificateError, KeyPem, Purpose};
use crate::files::{self, PrivateFileError, Readers};
use crate::kek::{KekError, KekSource};
use crate::ports::{Clock, Random, draw};
use crate::registry::{Authorities, Limits, Registry};
use crate::store::postgres::PostgresStore;
use crate::store::sqlite::SqliteStore;
use crate::store::url::StoreUrl;
use crate::store::{Epoch, Store, StoreError};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use capability::Authority;
use capability::record::Keks;
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

/// The SAN by which a gateway's client certificate is known, unless told otherwise.
pub const GATEWAY_SAN: &str = "membrane-gateway";
/// What the registry's own certificate is good for.
const REGISTRY_SANS: [&str; 3] = ["membrane-registry", "localhost", "127.0.0.1"];

/// The folder could not be made or opened. The message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// A file could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A key could not be read, or others may read it.
    #[error(transparent)]
    Key(#[from] PrivateFileError),
    /// There is no registry.
    #[error("{dir} holds no registry: run membrane-registry init --dir {dir}", dir = dir.display())]
    NotThere {
        /// The folder.
        dir: PathBuf,
    },
    /// Something is missing that must not be made anew.
    #[error("{missing} is missing although {present} is there: restore it from your backup", missing = missing.display(), present = present.display())]
    Missing {
        /// What is missing.
        missing: PathBuf,
        /// What would be useless with a new one.
        present: PathBuf,
    },
    /// A file's content is not what it should be.
    #[error("{path}: {what}", path = path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong; never the content.
        what: &'static str,
    },
    /// A certificate could not be made.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The store could not be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The keys could not be had.
    #[error(transparent)]
    Kek(#[from] KekError),
    /// The store has tenants of another folder's.
    #[error("the store holds a registry already: copy the file kek of its folder to {kek}, or name it by --kek", kek = kek.display())]
    ForeignStore {
        /// Where the key is looked for.
        kek: PathBuf,
    },
}

/// Where a registry's parts are.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its folder.
    pub dir: PathBuf,
    /// Its store; none: `registry.db` in the folder.
    pub store: Option<StoreUrl>,
    /// Its keys; none: `kek` in the folder.
    pub kek: Option<KekSource>,
    /// Where it is written who did what; none: nowhere.
    pub audit: Option<PathBuf>,
}

/// What stands in `registry.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    authorities: Vec<String>,
}

/// A certificate with its key that `init` makes and `cert issue` renews.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaf {
    /// The registry's own, on both listeners.
    Control,
    /// The gateway's own, towards its clients.
    Gateway,
    /// The gateway's, towards the registry.
    GatewayClient,
}

impl Leaf {
    /// All of them.
    pub const ALL: [Leaf; 3] = [Leaf::Control, Leaf::Gateway, Leaf::GatewayClient];

    /// Its file's name without the ending.
    pub fn name(self) -> &'static str {
        match self {
            Leaf::Control => "control",
            Leaf::Gateway => "gateway",
            Leaf::GatewayClient => "gateway-client",
        }
    }

    fn sans(self, authorities: &Authorities) -> Vec<String> {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        match self {
            Leaf::Control => own(&REGISTRY_SANS),
            Leaf::GatewayClient => own(&[GATEWAY_SAN]),
            Leaf::Gateway => {
                let ours = std::iter::once(&authorities.first).chain(&authorities.others);
                let host = |authority: &Authority| authority.host().trim_matches(['[', ']']).to_owned();
                let mut names: Vec<String> = Vec::new();
                for name in ours.map(host).chain(own(&["localhost", "127.0.0.1"]) as Vec<String>) {
                    if !names.contains(&name) {
                        names.push(name);
                    }
                }
                names
            }
        }
    }
}

/// The folder.
#[derive(Debug, Clone)]
pub struct Home {
    dir: PathBuf,
    store: StoreUrl,
    kek: KekSource,
    audit: Option<PathBuf>,
    /// The names under which our capabilities are honoured.
    pub authorities: Authorities,
}

/// What `init` did.
#[derive(Debug)]
pub struct Initialised {
    /// The folder.
    pub home: Home,
    /// The files that were made; none if everything was there.
    pub made: Vec<PathBuf>,
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> HomeError + use<> {
    let path = path.to_owned();
    move |source| HomeError::Io { path, source }
}

impl Home {
    /// Makes what is missing in `dir`: key-encryption key, CA, certificates, store, configuration, in this order. Every file
    /// appears whole or not at all and none is overwritten, so that a run that was killed is completed by the next.
    pub fn init(
        place: &Place,
        authorities: Authorities,
        clock: &dyn Clock,
        random: &Arc<dyn Random>,
    ) -> Result<Initialised, HomeError> {
        let dir = &place.dir;
        make_folder(dir)?;
        // Two runs at once would sign certificates with two CAs.
        let folder = File::open(dir).map_err(at(dir))?;
        folder.lock().map_err(at(dir))?;
        files::remove_unfinished(dir).map_err(at(dir))?;
        let authorities = match Home::open(place) {
            Ok(home) => home.authorities,
            Err(HomeError::NotThere { .. }) => authorities,
            Err(error) => return Err(error),
        };
        let home = Home::at(place, authorities);
        let mut made = Vec::new();

        match &home.kek {
            KekSource::File(kek) if !home.exists(kek)? => {
                home.is_new(kek, random)?;
                let mut line = Zeroizing::new(B64.encode(Zeroizing::new(draw::<32>(&**random)).as_slice()));
                line.push('\n');
                home.put(kek, line.as_bytes(), Readers::Owner, &mut made)?;
            }
            _ => {
                home.keks()?;
            }
        }
        home.complete_authority(clock, &mut made)?;
        make_folder(&home.dir.join("tls"))?;
        files::remove_unfinished(&home.dir.join("tls")).map_err(at(&home.dir))?;
        for leaf in Leaf::ALL {
            home.complete_leaf(leaf, clock, &mut made)?;
        }
        match &home.store {
            StoreUrl::Sqlite(path) if home.exists(path)? => {}
            StoreUrl::Sqlite(path) => {
                home.open_store(random)?;
                made.push(path.clone());
            }
            // Its tables are made if they are not there.
            StoreUrl::Postgres(_) => {
                home.open_store(random)?;
            }
        }
        let config = Config { authorities: home.all_authorities() };
        let mut json =
            serde_json::to_vec_pretty(&config).map_err(|error| at(&home.config())(error.into()))?;
        json.push(b'\n');
        home.put(&home.config(), &json, Readers::All, &mut made)?;
        Ok(Initialised { home, made })
    }

    /// Opens the folder that `init` made.
    pub fn open(place: &Place) -> Result<Home, HomeError> {
        let dir = &place.dir;
        let path = dir.join("registry.json");
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(HomeError::NotThere { dir: dir.to_owned() });
            }
            other => other.map_err(at(&path))?,
        };
        let what = "must be {\"authorities\": [\"host:port\", …]} with at least one authority";
        let content = || HomeError::Content { path: path.clone(), what };
        let config: Config = serde_json::from_slice(&text).map_err(|_| content())?;
        let mut names =
            config.authorities.iter().map(|name| name.parse::<Authority>().map_err(|_| content()));
        let first = names.next().ok_or_else(content)??;
        let others = names.collect::<Result<_, _>>()?;
        Ok(Home::at(place, Authorities { first, others }))
    }

    fn at(place: &Place, authorities: Authorities) -> Home {
        let dir = place.dir.clone();
        let store = place.store.clone().unwrap_or_else(|| StoreUrl::Sqlite(dir.join("registry.db")));
        let kek = place.kek.clone().unwrap_or_else(|| KekSource::File(dir.join("kek")));
        Home { dir, store, kek, audit: place.audit.clone(), authorities }
    }

    /// With a new key, nothing that is in a store could be opened.
    fn is_new(&self, kek: &Path, random: &Arc<dyn Random>) -> Result<(), HomeError> {
        match &self.store {
            StoreUrl::Sqlite(path) if self.exists(path)? => {
                Err(HomeError::Missing { missing: kek.to_owned(), present: path.clone() })
            }
            StoreUrl::Postgres(_) if !self.open_store(random)?.tenants()?.is_empty() => {
                Err(HomeError::ForeignStore { kek: kek.to_owned() })
            }
            StoreUrl::Sqlite(_) | StoreUrl::Postgres(_) => Ok(()),
        }
    }

    /// Opens the store and the keys.
    pub fn registry(
        &self,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        allow_private_targets: bool,
    ) -> Result<Registry, HomeError> {
        let keks = self.keks()?;
        if let StoreUrl::Sqlite(path) = &self.store
            && !self.exists(path)?
        {
            return Err(HomeError::Missing { missing: path.clone(), present: self.config() });
        }
        let store = self.open_store(&random)?;
        let authorities = self.authorities.clone();
        let audit = match &self.audit {
            Some(path) => Audit::to(path).map_err(at(path))?,
            None => Audit::default(),
        };
        let limits = Limits::default();
        Ok(Registry { store, keks, authorities, allow_private_targets, clock, random, audit, limits })
    }

    /// Signs a certificate anew; its key stays. Running servers notice.
    pub fn renew(&self, leaf: Leaf, clock: &dyn Clock) -> Result<PathBuf, HomeError> {
        let path = self.certificate(leaf);
        let certificate = self.sign(leaf, clock)?;
        files::write_whole(&path, certificate.as_bytes(), Readers::All, true).map_err(at(&path))?;
        Ok(path)
    }

    /// The CA's certificate.
    pub fn ca(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// A certificate.
    pub fn certificate(&self, leaf: Leaf) -> PathBuf {
        self.dir.join("tls").join(format!("{}.pem", leaf.name()))
    }

    /// A certificate's key.
    pub fn key(&self, leaf: Leaf) -> PathBuf {
        self.dir.join("tls").join(format!("{}-key.pem", leaf.name()))
    }

    fn ca_key(&self) -> PathBuf {
        self.dir.join("ca-key.pem")
    }

    fn config(&self) -> PathBuf {
        self.dir.join("registry.json")
    }

    fn all_authorities(&self) -> Vec<String> {
        let all = std::iter::once(&self.authorities.first).chain(&self.authorities.others);
        all.map(|authority| authority.as_str().to_owned()).collect()
    }

    /// The file of a SQLite store; none where it is in PostgreSQL.
    pub fn database(&self) -> Option<&Path> {
        match &self.store {
            StoreUrl::Sqlite(path) => Some(path),
            StoreUrl::Postgres(_) => None,
        }
    }

    /// The revocation log of this folder's process.
    pub fn log(&self) -> PathBuf {
        self.dir.join("revocations.log")
    }

    fn open_store(&self, random: &Arc<dyn Random>) -> Result<Arc<dyn Store>, HomeError> {
        let random = Arc::clone(random);
        let fresh = move || Epoch(draw(&*random));
        Ok(match &self.store {
            StoreUrl::Sqlite(path) => Arc::new(SqliteStore::open(path, &self.log(), fresh())?),
            StoreUrl::Postgres(url) => Arc::new(PostgresStore::open(url, &self.log(), fresh)?),
        })
    }

    /// One key a line, the sealing one first.
    pub fn keks(&self) -> Result<Keks, HomeError> {
        let path = match &self.kek {
            KekSource::File(path) => path.clone(),
            KekSource::Command(_) => PathBuf::from("the output of the command of --kek"),
        };
        let what = "must hold keys alone: one a line, 32 bytes in base64url without padding";
        Keks::parse(&self.kek.read()?).ok_or(HomeError::Content { path, what })
    }

    fn exists(&self, path: &Path) -> Result<bool, HomeError> {
        path.try_exists().map_err(at(path))
    }

    fn put(
        &self,
        path: &Path,
        content: &[u8],
        readers: Readers,
        made: &mut Vec<PathBuf>,
    ) -> Result<(), HomeError> {
        if files::write_whole(path, content, readers, false).map_err(at(path))? {
            made.push(path.to_owned());
        }
        Ok(())
    }

    /// Keys are written before their certificates, so that a key alone is a run that was killed.
    fn complete_authority(&self, clock: &dyn Clock, made: &mut Vec<PathBuf>) -> Result<(), HomeError> {
        if self.exists(&self.ca())? {
            return Ok(());
        }
        for leaf in Leaf::ALL {
            if self.exists(&self.certificate(leaf))? {
                return Err(HomeError::Missing { missing: self.ca(), present: self.certificate(leaf) });
            }
        }
        if !self.exists(&self.ca_key())? {
            self.put(&self.ca_key(), certificates::new_key()?.as_bytes(), Readers::Owner, made)?;
        }
        let certificate = certificates::authority(&read_key(&self.ca_key())?, clock.now())?;
        self.put(&self.ca(), certificate.as_bytes(), Readers::All, made)
    }

    fn complete_leaf(&self, leaf: Leaf, clock: &dyn Clock, made: &mut Vec<PathBuf>) -> Result<(), HomeError> {
        let (certificate, key) = (self.certificate(leaf), self.key(leaf));
        if self.exists(&certificate)? {
            let missing = !self.exists(&key)?;
            return if missing {
                Err(HomeError::Missing { missing: key, present: certificate })
            } else {
                Ok(())
            };
        }
        if !self.exists(&key)? {
            self.put(&key, certificates::new_key()?.as_bytes(), Readers::Owner, made)?;
        }
        self.put(&certificate, self.sign(leaf, clock)?.as_bytes(), Readers::All, made)
    }

    fn sign(&self, leaf: Leaf, clock: &dyn Clock) -> Result<String, HomeError> {
        let ca = fs::read_to_string(self.ca()).map_err(at(&self.ca()))?;
        let purpose = if leaf == Leaf::GatewayClient { Purpose::Client } else { Purpose::Server };
        let (ca_key, key) = (read_key(&self.ca_key())?, read_key(&self.key(leaf))?);
        Ok(certificates::issue(&ca, &ca_key, &key, purpose, leaf.sans(&self.authorities), clock.now())?)
    }
}

fn read_key(path: &Path) -> Result<KeyPem, HomeError> {
    let bytes = files::read_private(path)?;
    let text = std::str::from_utf8(&bytes);
    let text =
        text.map_err(|_| HomeError::Content { path: path.to_owned(), what: "must be a key in PEM" })?;
    Ok(Zeroizing::new(text.to_owned()))
}

fn make_folder(dir: &Path) -> Result<(), HomeError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at(dir))
}
