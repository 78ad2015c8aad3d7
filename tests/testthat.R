library(testthat)
library(pylmernn)

test_check("pylmernn")
