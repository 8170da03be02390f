terraform {
  required_version = ">= 1.5"

  required_providers {
    azurerm = {
      source  = "hashicorp/azurerm"
      version = "~> 4.0"
    }
  }
}

provider "azurerm" {
  features {}
  # Which subscription: ARM_SUBSCRIPTION_ID in the environment, as the provider demands since its version 4.
}
