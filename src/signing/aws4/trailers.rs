//! The trailers of an aws-chunked body: checksums, each announced in `x-amz-trailer`.

use arrayvec::ArrayVec;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::fault::Fault;
use crate::encoding::trim;

/// How many trailers a body may have. S3 takes one checksum.
pub const MAX_TRAILERS: usize = 4;

/// The longest checksum in base64: SHA-512's.
const MAX_VALUE: usize = 88;

/// A checksum that S3 takes as a header or trailer. In the order of their names.
///
/// Source: AWS, "Checking object integrity in Amazon S3", and the enumeration `ChecksumAlgorithm` of S3's service model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Checksum {
    Crc32,
    Crc32c,
    Crc64Nvme,
    Md5,
    Sha1,
    Sha256,
    Sha512,
    XxHash128,
    XxHash3,
    XxHash64,
}

impl Checksum {
    pub const ALL: [Self; 10] = [
        Self::Crc32,
        Self::Crc32c,
        Self::Crc64Nvme,
        Self::Md5,
        Self::Sha1,
        Self::Sha256,
        Self::Sha512,
        Self::XxHash128,
        Self::XxHash3,
        Self::XxHash64,
    ];

    /// The header in which it travels.
    pub fn header(self) -> &'static str {
        match self {
            Self::Crc32 => "x-amz-checksum-crc32",
            Self::Crc32c => "x-amz-checksum-crc32c",
            Self::Crc64Nvme => "x-amz-checksum-crc64nvme",
            Self::Md5 => "x-amz-checksum-md5",
            Self::Sha1 => "x-amz-checksum-sha1",
            Self::Sha256 => "x-amz-checksum-sha256",
            Self::Sha512 => "x-amz-checksum-sha512",
            Self::XxHash128 => "x-amz-checksum-xxhash128",
            Self::XxHash3 => "x-amz-checksum-xxhash3",
            Self::XxHash64 => "x-amz-checksum-xxhash64",
        }
    }

    /// By the name of its header, in either case.
    pub fn from_header(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|checksum| checksum.header().as_bytes().eq_ignore_ascii_case(name))
    }

    /// In bytes, before it is written in base64.
    fn size(self) -> usize {
        match self {
            Self::Crc32 | Self::Crc32c => 4,
            Self::Crc64Nvme | Self::XxHash3 | Self::XxHash64 => 8,
            Self::Md5 | Self::XxHash128 => 16,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    /// In characters of base64, padding included.
    pub fn value_length(self) -> usize {
        self.size().div_ceil(3) * 4
    }

    fn is_value(self, value: &[u8]) -> bool {
        let mut decoded = [0; MAX_VALUE];
        value.len() == self.value_length()
            && STANDARD.decode_slice(value, &mut decoded).is_ok_and(|size| size == self.size())
    }
}

/// The trailers that `x-amz-trailer` announces, in the order of their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrailerNames(ArrayVec<Checksum, MAX_TRAILERS>);

impl TrailerNames {
    /// Reads the values of all `x-amz-trailer` headers: names in either case, with commas between them.
    ///
    /// # Errors
    /// [`Fault::TrailerName`], [`Fault::TrailerNames`].
    pub fn parse<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, Fault> {
        let mut names = Self::default();
        let values = values.into_iter().map(trim).filter(|value| !value.is_empty());
        for name in values.flat_map(|value| value.split(|&byte| byte == b',')) {
            let checksum = Checksum::from_header(trim(name)).ok_or(Fault::TrailerName)?;
            match names.0.binary_search(&checksum) {
                Ok(_) => return Err(Fault::TrailerNames),
                Err(place) => names.0.try_insert(place, checksum).map_err(|_| Fault::TrailerNames)?,
            }
        }
        Ok(names)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = Checksum> {
        self.0.iter().copied()
    }

    /// As the value of `x-amz-trailer`, in the order in which [`super::Resigner`] sends them.
    pub fn write(&self, out: &mut String) {
        for (index, checksum) in self.0.iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            out.push_str(checksum.header());
        }
    }

    /// How long each trailer's name and value will be, as [`super::framed_length`] wants it.
    pub(super) fn lengths(&self) -> ArrayVec<(usize, usize), MAX_TRAILERS> {
        self.0.iter().map(|checksum| (checksum.header().len(), checksum.value_length())).collect()
    }
}

/// The trailers that came, in the order of their names. Their syntax was checked; whether they are right, AWS says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trailers(ArrayVec<(Checksum, ArrayVec<u8, MAX_VALUE>), MAX_TRAILERS>);

impl Trailers {
    /// Names of headers, and values.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        self.0.iter().map(|(checksum, value)| (checksum.header(), value.as_slice()))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// # Errors
    /// [`Fault::TrailerNotAnnounced`], [`Fault::TrailerRepeated`], [`Fault::TrailerValue`].
    pub(super) fn insert(
        &mut self,
        name: &[u8],
        value: &[u8],
        announced: &TrailerNames,
    ) -> Result<(), Fault> {
        let checksum = Checksum::from_header(name).ok_or(Fault::TrailerNotAnnounced)?;
        if !announced.0.contains(&checksum) {
            return Err(Fault::TrailerNotAnnounced);
        }
        let Err(place) = self.0.binary_search_by_key(&checksum, |(other, _)| *other) else {
            return Err(Fault::TrailerRepeated);
        };
        if !checksum.is_value(value) {
            return Err(Fault::TrailerValue);
        }
        let value = value.iter().copied().collect();
        self.0.try_insert(place, (checksum, value)).map_err(|_| Fault::TrailerNotAnnounced)
    }

    pub(super) fn are_all(&self, announced: &TrailerNames) -> bool {
        self.0.len() == announced.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_names_and_fits() {
        let names: Vec<_> = Checksum::ALL.map(Checksum::header).into();
        assert!(names.is_sorted() && Checksum::ALL.is_sorted());
        for checksum in Checksum::ALL {
            assert_eq!(checksum.value_length(), STANDARD.encode(vec![0; checksum.size()]).len());
            assert!(checksum.value_length() <= MAX_VALUE);
        }
    }

    #[test]
    fn announcements() {
        let written = |values: &[&str]| {
            let mut out = String::new();
            TrailerNames::parse(values.iter().map(|value| value.as_bytes()))?.write(&mut out);
            Ok(out)
        };
        let (sha1, crc32) = ("x-amz-checksum-sha1", "x-amz-checksum-crc32");
        for (values, expected) in [
            (&[][..], Ok("")),
            (&["", " "], Ok("")),
            (&["X-Amz-Checksum-SHA1 , x-amz-checksum-crc32"], Ok("x-amz-checksum-crc32,x-amz-checksum-sha1")),
            (&[sha1, crc32], Ok("x-amz-checksum-crc32,x-amz-checksum-sha1")),
            (&[sha1, sha1], Err(Fault::TrailerNames)),
            (&["x-amz-checksum-crc32,"], Err(Fault::TrailerName)),
            (&["x-amz-checksum-"], Err(Fault::TrailerName)),
            (&["x-amz-checksum-crc16"], Err(Fault::TrailerName)),
            (&["x-amz-checksum-crc32, x-amz-acl"], Err(Fault::TrailerName)),
            (&["x-amz-trailer-signature"], Err(Fault::TrailerName)),
        ] {
            assert_eq!(written(values), expected.map(str::to_owned), "{values:?}");
        }
        let all = Checksum::ALL.map(Checksum::header);
        assert!(written(&all[..MAX_TRAILERS]).is_ok());
        assert_eq!(written(&all[..=MAX_TRAILERS]), Err(Fault::TrailerNames));
    }

    #[test]
    fn values_are_base64_of_the_right_length() {
        let announced = TrailerNames::parse([&b"x-amz-checksum-crc32"[..]]).unwrap();
        for (value, expected) in [
            ("AAAAAA==", Ok(())),
            ("sOO8/Q==", Ok(())),
            ("AAAAAA", Err(Fault::TrailerValue)),
            ("AAAAAB==", Err(Fault::TrailerValue)),
            ("AAAAAAA=", Err(Fault::TrailerValue)),
            ("AAAAAAAA", Err(Fault::TrailerValue)),
            ("sOO8_Q==", Err(Fault::TrailerValue)),
            ("", Err(Fault::TrailerValue)),
        ] {
            let mut trailers = Trailers::default();
            assert_eq!(
                trailers.insert(b"X-AMZ-Checksum-CRC32", value.as_bytes(), &announced),
                expected,
                "{value}"
            );
        }
    }
}
