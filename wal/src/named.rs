//! Enumerations whose variants have names, for tables, command lines and reports.

/// Declares an enumeration with `ALL` and `name()`: `Variant = "its-name"`, each with its documentation.
macro_rules! named {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$doc])* $variant,)+
        }

        impl $name {
            /// All of them, in the order of their declaration.
            pub const ALL: &[$name] = &[$($name::$variant,)+];

            /// In lower case, with hyphens.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $($name::$variant => $text,)+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str(self.name())
            }
        }
    };
}
pub(crate) use named;

/// What both enumerations promise of their names: lower case with hyphens, as the variant, and each only once.
#[cfg(test)]
pub(crate) fn assert_names<T: std::fmt::Debug>(all: &[T], name: impl Fn(&T) -> &'static str) {
    let mut seen = std::collections::BTreeSet::new();
    for variant in all {
        let mut expected = String::new();
        for letter in format!("{variant:?}").chars() {
            if letter.is_ascii_uppercase() && !expected.is_empty() {
                expected.push('-');
            }
            expected.push(letter.to_ascii_lowercase());
        }
        assert_eq!(name(variant), expected);
        assert!(seen.insert(expected));
    }
}
