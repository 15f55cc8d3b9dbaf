//! What is on a courier's medium: the export, a publication, a receipt.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use release::courier::Export;
use release::courier::Receipt;
use release::courier::carried;
use release::repository::layout;

fuzz_target!(|data: &[u8]| {
    if let Ok(export) = Export::parse(data) {
        assert!(export.publications.iter().all(|record| record.serial <= export.serial));
        assert_eq!(export.to_vec().unwrap(), data);
    }
    if let Ok(receipt) = Receipt::parse(data) {
        assert_eq!(receipt.to_vec().unwrap(), data);
    }
    if let Ok(publication) = carried::publication(data, 1) {
        for (name, entry) in publication.names() {
            assert!(Path::new(name.as_str()).is_relative());
            assert_eq!(layout::class_of(name), Some(entry.class));
        }
    }
});
