//! voter — see below; written by helper voter.
