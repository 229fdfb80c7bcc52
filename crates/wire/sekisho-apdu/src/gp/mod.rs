//! Identifiers and data objects of the GlobalPlatform Card Specification (GPC) 2.3.1.

mod install;
mod life_cycle;
mod privileges;
mod registry;

pub use install::{Install, InstallForLoad, purpose};
pub use life_cycle::{ApplicationLifeCycle, CardLifeCycle, ELF_LOADED, SecurityDomainLifeCycle};
pub use privileges::Privileges;
pub use registry::{KeyInformation, RegistryEntry, TagList};

/// Instruction codes.
pub mod ins {
    /// DELETE (GPC 11.2).
    pub const DELETE: u8 = 0xE4;
    /// END R-MAC SESSION (Amd D 7.1.4).
    pub const END_R_MAC_SESSION: u8 = 0x78;
    /// BEGIN R-MAC SESSION (Amd D 7.1.3).
    pub const BEGIN_R_MAC_SESSION: u8 = 0x7A;
    /// EXTERNAL AUTHENTICATE (GPC D.4.2).
    pub const EXTERNAL_AUTHENTICATE: u8 = 0x82;
    /// GET DATA (GPC 11.3), even instruction code.
    pub const GET_DATA: u8 = 0xCA;
    /// GET RESPONSE (ISO/IEC 7816-4).
    pub const GET_RESPONSE: u8 = 0xC0;
    /// GET STATUS (GPC 11.4).
    pub const GET_STATUS: u8 = 0xF2;
    /// INITIALIZE UPDATE (GPC D.4.1).
    pub const INITIALIZE_UPDATE: u8 = 0x50;
    /// INSTALL (GPC 11.5).
    pub const INSTALL: u8 = 0xE6;
    /// LOAD (GPC 11.6).
    pub const LOAD: u8 = 0xE8;
    /// MANAGE CHANNEL (GPC 11.7).
    pub const MANAGE_CHANNEL: u8 = 0x70;
    /// PUT KEY (GPC 11.8).
    pub const PUT_KEY: u8 = 0xD8;
    /// SELECT (GPC 11.9).
    pub const SELECT: u8 = 0xA4;
    /// SET STATUS (GPC 11.10).
    pub const SET_STATUS: u8 = 0xF0;
    /// STORE DATA (GPC 11.11).
    pub const STORE_DATA: u8 = 0xE2;
    /// SET PAIRING (routing, section 5).
    pub const SET_PAIRING: u8 = 0x38;
    /// CHANGE MODE (broadcast update, section 2.1).
    pub const CHANGE_MODE: u8 = 0x3A;
    /// WRITE (broadcast update, section 2.2).
    pub const WRITE: u8 = 0x3C;
    /// AUTHORIZE ACTION (broadcast update, section 2.3).
    pub const AUTHORIZE_ACTION: u8 = 0x3E;
}

/// Key types (GPC Table 11-16).
pub mod key_type {
    /// AES, 16, 24 or 32 bytes.
    pub const AES: u8 = 0x88;
    /// Exponent of an RSA public key.
    pub const RSA_PUBLIC_EXPONENT: u8 = 0xA0;
    /// Modulus of an RSA public key.
    pub const RSA_PUBLIC_MODULUS: u8 = 0xA1;
    /// ECC public key.
    pub const ECC_PUBLIC: u8 = 0xB0;
    /// ECC private key.
    pub const ECC_PRIVATE: u8 = 0xB1;
    /// Reference of ECC key parameters.
    pub const ECC_PARAMETERS_REFERENCE: u8 = 0xF0;
    /// Extended format: the type is in the next byte, the length has two (GPC Table 11-29).
    pub const EXTENDED_FORMAT: u8 = 0xFF;
}

/// Tags of the data objects used here.
pub mod tag {
    /// AID (as search criterion and in the registry data).
    pub const AID: u32 = 0x4F;
    /// Tag list (GPC Table 11-35).
    pub const TAG_LIST: u32 = 0x5C;
    /// FCI template (GPC Table 11-82).
    pub const FCI: u32 = 0x6F;
    /// DF name in the FCI; executable module AID in the registry data.
    pub const DF_NAME: u32 = 0x84;
    /// Proprietary data in the FCI.
    pub const FCI_PROPRIETARY: u32 = 0xA5;
    /// GlobalPlatform registry related data (GPC Table 11-36).
    pub const REGISTRY_DATA: u32 = 0xE3;
    /// Life cycle state.
    pub const LIFE_CYCLE: u32 = 0x9F70;
    /// Privileges.
    pub const PRIVILEGES: u32 = 0xC5;
    /// Implicit selection parameter.
    pub const IMPLICIT_SELECTION: u32 = 0xCF;
    /// The application's executable load file AID.
    pub const EXECUTABLE_LOAD_FILE: u32 = 0xC4;
    /// Associated security domain's AID.
    pub const SECURITY_DOMAIN: u32 = 0xCC;
    /// Executable load file version number.
    pub const VERSION: u32 = 0xCE;
    /// Executable module AID.
    pub const EXECUTABLE_MODULE: u32 = 0x84;
    /// Key information template (GPC 11.3.3.1.1).
    pub const KEY_INFORMATION_TEMPLATE: u32 = 0xE0;
    /// Key information data.
    pub const KEY_INFORMATION: u32 = 0xC0;
    /// Parameters of INSTALL that are the application's (GPC Table 11-49).
    pub const APPLICATION_PARAMETERS: u32 = 0xC9;
    /// What of INSTALL or DELETE says for which card a token is, and its number: a control reference template for digital signature (GPC Table 11-49).
    pub const TOKEN_REFERENCE: u32 = 0xB6;
    /// Number of a token in such a template.
    pub const TOKEN_NUMBER: u32 = 0x93;
    /// Token of DELETE (GPC Table 11-24).
    pub const DELETE_TOKEN: u32 = 0x9E;
    /// Parameters of INSTALL that are the system's.
    pub const SYSTEM_PARAMETERS: u32 = 0xEF;
    /// Ours: secure-only, 01 (`docs/spec/tls-manager.md`, 5), in the registry data, in the system's parameters of INSTALL, and as a data object of a security domain.
    pub const SECURE_ONLY: u32 = 0xDF53;
    /// Contactless protocol parameters (GPC Amendment C, 5), in the system's parameters of INSTALL and the registry data; in them communication interface parameters, in these the access of one
    /// instance.
    pub const CONTACTLESS_PROTOCOL: u32 = 0xA0;
    /// Communication interface parameters.
    pub const COMMUNICATION_INTERFACE: u32 = 0xA5;
    /// On which interfaces an instance answers.
    pub const INTERFACE_ACCESS: u32 = 0x82;
    /// Maximum length of data field in command message (GPC Table 11-82).
    pub const MAX_COMMAND_LENGTH: u32 = 0x9F65;
}
