// The package declares functions without a body (runtime hooks by linkname);
// this file tells the compiler that they are defined elsewhere.
