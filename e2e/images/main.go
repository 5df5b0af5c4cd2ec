// Packs one program into an image, as an archive that `docker load` and `ctr images import` take. No daemon is needed.
//
// Two layers: an empty /tmp and who the user is, and the program. A program that is linked dynamically (a debug build, for
// quick tests) gets the libraries it asks for in a layer of their own. All times are SOURCE_DATE_EPOCH's, or 1970: the
// same program gives the same image, to the byte.
package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

const user = "15000:15000"

// Where the loader of a distribution looks, in its own order.
var libraryFolders = []string{
	"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu", "/usr/lib/aarch64-linux-gnu",
	"/lib64", "/usr/lib64", "/lib", "/usr/lib",
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

type labels map[string]string

func (l labels) String() string { return "" }

func (l labels) Set(text string) error {
	key, value, found := strings.Cut(text, "=")
	if !found {
		return fmt.Errorf("a label is written KEY=VALUE, not %q", text)
	}
	l[key] = value
	return nil
}

func run() error {
	given := labels{}
	program := flag.String("program", "", "the program, which becomes the image's entrypoint at /NAME")
	tag := flag.String("tag", "", "the image's name and tag")
	output := flag.String("output", "", "the archive to write")
	flag.Var(given, "label", "KEY=VALUE; may be repeated")
	flag.Parse()
	reference, err := name.NewTag(*tag)
	if err != nil {
		return err
	}
	created, err := epoch()
	if err != nil {
		return err
	}
	image, err := build(*program, given, created)
	if err != nil {
		return err
	}
	if err := tarball.WriteToFile(*output, reference, image); err != nil {
		return err
	}
	return report(reference, image, *output)
}

func epoch() (time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		return time.Unix(0, 0).UTC(), nil
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	return time.Unix(seconds, 0).UTC(), err
}

func build(program string, given labels, created time.Time) (v1.Image, error) {
	libraries, err := librariesOf(program)
	if err != nil {
		return nil, err
	}
	entrypoint := "/" + filepath.Base(program)
	contents := []func(*tar.Writer) error{
		func(w *tar.Writer) error { return base(w, created) },
		func(w *tar.Writer) error { return addAll(w, libraries, created) },
		func(w *tar.Writer) error { return addFile(w, program, entrypoint, created) },
	}
	image := empty.Image
	for _, content := range contents {
		layer, err := layerOf(content)
		if err != nil {
			return nil, err
		}
		if layer == nil {
			continue
		}
		addendum := mutate.Addendum{Layer: layer, History: v1.History{Created: v1.Time{Time: created}, CreatedBy: "make images"}}
		if image, err = mutate.Append(image, addendum); err != nil {
			return nil, err
		}
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Created = "linux", runtime.GOARCH, v1.Time{Time: created}
	file.Config = v1.Config{User: user, Entrypoint: []string{entrypoint}, WorkingDir: "/", Labels: given}
	return mutate.ConfigFile(image, file)
}

// The folders and files that programs expect anywhere.
func base(w *tar.Writer, created time.Time) error {
	header := &tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777, ModTime: created}
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	header = &tar.Header{Typeflag: tar.TypeDir, Name: "etc/", Mode: 0o755, ModTime: created}
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	passwd := "root:x:0:0:root:/:/sbin/nologin\nfusebox:x:15000:15000:fusebox:/:/sbin/nologin\n"
	group := "root:x:0:\nfusebox:x:15000:\n"
	if err := addBytes(w, "etc/passwd", []byte(passwd), 0o444, created); err != nil {
		return err
	}
	return addBytes(w, "etc/group", []byte(group), 0o444, created)
}

func layerOf(content func(*tar.Writer) error) (v1.Layer, error) {
	var buffer bytes.Buffer
	writer := tar.NewWriter(&buffer)
	if err := content(writer); err != nil {
		return nil, err
	}
	if buffer.Len() == 0 {
		return nil, nil
	}
	if err := writer.Close(); err != nil {
		return nil, err
	}
	written := buffer.Bytes()
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(written)), nil })
}

func addAll(w *tar.Writer, files map[string]string, created time.Time) error {
	places := make([]string, 0, len(files))
	for place := range files {
		places = append(places, place)
	}
	sort.Strings(places)
	for _, place := range places {
		if err := addFile(w, files[place], place, created); err != nil {
			return err
		}
	}
	return nil
}

func addFile(w *tar.Writer, source, place string, created time.Time) error {
	content, err := os.ReadFile(source)
	if err != nil {
		return err
	}
	return addBytes(w, strings.TrimPrefix(place, "/"), content, 0o555, created)
}

func addBytes(w *tar.Writer, place string, content []byte, mode int64, created time.Time) error {
	header := &tar.Header{Typeflag: tar.TypeReg, Name: place, Mode: mode, Size: int64(len(content)), ModTime: created}
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}

// Where each library must lie in the image, and the file it is; none for a static program.
func librariesOf(program string) (map[string]string, error) {
	found := map[string]string{}
	waiting := []string{program}
	for len(waiting) > 0 {
		path := waiting[0]
		waiting = waiting[1:]
		file, err := elf.Open(path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		names, err := file.ImportedLibraries()
		loader := loaderOf(file)
		file.Close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if loader != "" {
			found[loader] = loader
		}
		for _, library := range names {
			source, err := find(library)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
			if _, known := found[source]; !known {
				found[source] = source
				waiting = append(waiting, source)
			}
		}
	}
	return found, nil
}

func loaderOf(file *elf.File) string {
	section := file.Section(".interp")
	if section == nil {
		return ""
	}
	data, err := section.Data()
	if err != nil {
		return ""
	}
	return strings.TrimRight(string(data), "\x00")
}

func find(library string) (string, error) {
	for _, folder := range libraryFolders {
		path := filepath.Join(folder, library)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", errors.New("no " + library + " on this machine")
}

func report(reference name.Tag, image v1.Image, output string) error {
	digest, err := image.ConfigName()
	if err != nil {
		return err
	}
	archive, err := os.Stat(output)
	if err != nil {
		return err
	}
	layers, err := image.Layers()
	if err != nil {
		return err
	}
	var packed, unpacked int64
	for _, layer := range layers {
		size, err := layer.Size()
		if err != nil {
			return err
		}
		reader, err := layer.Uncompressed()
		if err != nil {
			return err
		}
		plain, err := io.Copy(io.Discard, reader)
		if err != nil {
			return err
		}
		packed, unpacked = packed+size, unpacked+plain
	}
	const mebibyte = 1 << 20
	fmt.Printf("%s  %.1f MiB (%.1f MiB compressed)  %s\n  archive %s (%.1f MiB)\n", reference.RepositoryStr()+":"+reference.TagStr(),
		float64(unpacked)/mebibyte, float64(packed)/mebibyte, digest, output, float64(archive.Size())/mebibyte)
	return nil
}
